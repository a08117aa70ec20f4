"""Runs the event log's revisions on the connection that ``db.migrate`` hands in."""

from alembic import context

from enable_with_segment.db.event_log.tables import EventLogTable

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=EventLogTable.metadata,
    version_table=context.config.attributes["version_table"],
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
