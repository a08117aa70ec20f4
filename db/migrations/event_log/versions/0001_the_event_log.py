"""The event log

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from enable_with_segment.db.types import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("component", sa.String(), nullable=False),
        sa.Column("person_hash", sa.String(), nullable=False),
        sa.Column("erased_through", UtcDateTime(), nullable=False),
        sa.Column("requested_at", UtcDateTime(), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
        sa.Column("completed_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("account", "component", "person_hash"),
    )
    op.create_index("ix_erasures_event_id", "erasures", ["event_id"])

    # The partitions are made by the log itself (db.event_log.postgresql.partitions), ahead of the events.
    op.execute("CREATE SEQUENCE event_ids")
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.Column("occurred_at", UtcDateTime(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("component", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("install_id", sa.String(), nullable=True),
        sa.Column("message_id", sa.String(), nullable=True),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("event", sa.String(), nullable=True),
        sa.Column("person_hash", sa.String(), nullable=True),
        sa.Column("device_hash", sa.String(), nullable=True),
        sa.Column("previous_hash", sa.String(), nullable=True),
        sa.Column("erased", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "pending",
                "handled",
                "unsupported",
                "suppressed",
                "repeated_delete",
                "dead_letter",
                name="eventstate",
                native_enum=False,
                length=32,
            ),
            server_default=sa.text("'pending'"),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("available_at", UtcDateTime(), nullable=False),
        sa.Column("lease", sa.String(), nullable=True),
        sa.Column("leased_until", UtcDateTime(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("duplicates", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("differing_duplicates", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("replays", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        postgresql_partition_by="RANGE (id)",
    )
    pending = sa.text("state = 'pending'")
    rare = sa.text("state <> 'pending' AND state <> 'handled'")
    op.create_index("ix_events_due", "events", ["scope", "available_at", "id"], postgresql_where=pending)
    op.create_index("ix_events_pending", "events", ["id"], postgresql_where=pending)
    op.create_index("ix_events_rare", "events", ["state", "id"], postgresql_where=rare)
    op.create_index("ix_events_message", "events", [sa.text("hashtextextended(message_id, 0)")])
    op.create_index("ix_events_subject", "events", [sa.text("coalesce(person_hash, device_hash)")])
    op.create_index("ix_events_install_id", "events", ["install_id"])

    op.create_table(
        "bodies",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        postgresql_partition_by="RANGE (id)",
    )

    op.create_table(
        "message_keys",
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("scope", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", "scope"),
    )
    op.create_index("ix_message_keys_id", "message_keys", ["id"])

    op.create_table(
        "handler_outcomes",
        sa.Column("event_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("handler", sa.String(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "done", "unsupported", "retry", "unknown", "failed", name="handlerstate", native_enum=False, length=32
            ),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("due_at", UtcDateTime(), nullable=True),
        sa.Column("since", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("event_id", "handler"),
        postgresql_partition_by="RANGE (event_id)",
    )


def downgrade() -> None:
    for table in ("handler_outcomes", "message_keys", "bodies", "events", "erasures"):
        op.drop_table(table)
    op.execute("DROP SEQUENCE event_ids")
