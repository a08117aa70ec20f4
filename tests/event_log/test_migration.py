"""The revisions build exactly the tables that the code uses."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from db.database import Database
from db.event_log.tables import EventLogTable


async def test_the_migrated_store_is_the_declared_one(postgresql_url: str) -> None:
    database = Database.open(postgresql_url)

    def differences(connection: Connection) -> list[object]:
        ours = set(EventLogTable.metadata.tables)
        options = {"include_name": lambda name, kind, _parents: kind != "table" or name in ours}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), EventLogTable.metadata))

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()
