"""Migrations: they bring any store to the newest revision, and the tables are what the models say."""

from __future__ import annotations

import asyncio

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from enable_with_segment.db.control.tables import ControlTable
from enable_with_segment.db.database import Database
from enable_with_segment.db.migrate import migrate
from enable_with_segment.db.revision import is_current, version_table


async def test_an_empty_store_becomes_current_and_stays_so(empty_database_url: str) -> None:
    database = Database.open(empty_database_url)
    assert not await is_current(database, "control")
    await migrate(database, "control")
    assert await is_current(database, "control")
    await migrate(database, "control")
    assert await is_current(database, "control")
    await database.close()


async def test_two_processes_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    databases = [Database.open(empty_database_url) for _ in range(3)]
    await asyncio.gather(*(migrate(database, "control") for database in databases))
    for database in databases:
        assert await is_current(database, "control")
        await database.close()


async def test_the_revisions_make_exactly_the_tables_of_the_models(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": version_table("control"),
                "include_name": lambda name, kind, _: kind != "table" or name in ControlTable.metadata.tables,
            },
        )
        return list(compare_metadata(context, ControlTable.metadata))

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
