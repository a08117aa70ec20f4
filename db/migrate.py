"""Bringing a store's schema up to date with Alembic."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from db.database import Database

Store: TypeAlias = Literal["control", "event_log"]


def _config(store: Store) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations" / store))
    config.set_main_option("path_separator", "os")
    return config


def version_table(store: Store) -> str:
    """The name of the table that holds a store's revision; both stores may share one PostgreSQL database."""
    return f"{store}_revision"


async def migrate(database: Database, store: Store) -> None:
    """Upgrade ``store`` to the newest revision; does nothing when it is there already."""

    def upgrade(connection: Connection) -> None:
        config = _config(store)
        config.attributes["connection"] = connection
        config.attributes["version_table"] = version_table(store)
        command.upgrade(config, "head")

    async with database.engine.begin() as connection:
        if database.dialect == "postgresql":
            # Two processes that start at once must not both migrate.
            await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(732118440001)")
        await connection.run_sync(upgrade)


async def is_current(database: Database, store: Store) -> bool:
    """Tell whether ``store`` has the newest revision."""
    head = ScriptDirectory.from_config(_config(store)).get_current_head()

    def current(connection: Connection) -> str | None:
        context = MigrationContext.configure(connection, opts={"version_table": version_table(store)})
        return context.get_current_revision()

    async with database.engine.connect() as connection:
        return await connection.run_sync(current) == head
