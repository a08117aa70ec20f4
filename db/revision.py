"""Which revision a store's tables have. Alembic is only imported to change it (``db.migrate``)."""

from __future__ import annotations

from typing import Literal, TypeAlias

from sqlalchemy import Connection, inspect

from enable_with_segment.db.database import Database

Store: TypeAlias = Literal["control", "event_log"]

NEWEST: dict[Store, str] = {"control": "0003", "event_log": "0004"}
"""The last file in ``db/migrations/{store}/versions``; a test compares the two."""


def version_table(store: Store) -> str:
    """The name of the table that holds a store's revision; both stores may share one PostgreSQL database."""
    return f"{store}_revision"


async def is_current(database: Database, store: Store) -> bool:
    """Return True if ``store`` has the newest revision."""
    table = version_table(store)

    def revisions(connection: Connection) -> list[str]:
        if not inspect(connection).has_table(table):
            return []
        return list(connection.exec_driver_sql(f"SELECT version_num FROM {table}").scalars())  # noqa: S608 - our name

    async with database.engine.connect() as connection:
        return await connection.run_sync(revisions) == [NEWEST[store]]
