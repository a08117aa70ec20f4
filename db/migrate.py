"""Bringing a store's schema up to date with Alembic.

On PostgreSQL a change of a table waits for everybody who uses it, and whoever comes meanwhile waits behind it: one
forgotten transaction would stop the service. So a migration waits shortly, lets the others pass, and tries again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import ARRAY, Connection, Text, bindparam, text
from sqlalchemy.exc import DBAPIError

from enable_with_segment.db.control.tables import ControlTable
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.tables import EventLogTable
from enable_with_segment.db.problems import TablesInUse
from enable_with_segment.db.revision import Store, version_table

logger = logging.getLogger(__name__)

#: PostgreSQL's codes: a lock was not to be had in time, or only by whoever waited for one of ours.
_LOCKED = ("55P03", "40P01")
#: Of a session of another role PostgreSQL tells the process, and the rest only to those who may know.
_HOLDERS = text(
    "SELECT DISTINCT pid, state, xact_start FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " JOIN pg_class ON pg_class.oid = coalesce(pg_partition_root(relation)::oid, relation)"
    " WHERE granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND pid <> pg_backend_pid() AND relname = ANY (:tables) ORDER BY xact_start LIMIT 3"
).bindparams(bindparam("tables", type_=ARRAY(Text)))
_TABLES = {"control": ControlTable.metadata.tables, "event_log": EventLogTable.metadata.tables}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a migration waits for tables that others use, and how often, on PostgreSQL.

    Attributes:
        lock_seconds: for one table; so long everybody may have to wait who wants it meanwhile. It is longer than the
            second after which PostgreSQL cancels an autovacuum that is in the way, and shorter than what receiving
            takes for a slow commit.
        tries: how often it begins.
        pause_seconds: how long the others are left alone in between.
    """

    lock_seconds: float = 1.3
    tries: int = 30
    pause_seconds: float = 2.0


def _config(store: Store) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations" / store))
    config.set_main_option("path_separator", "os")
    return config


async def migrate(database: Database, store: Store, *, patience: Patience | None = None) -> None:
    """Upgrade ``store`` to the newest revision, as a whole or not at all; does nothing when it is there already.

    Raises:
        TablesInUse: others held tables that have to be changed.
    """
    patience = patience or Patience()
    for attempt in range(1, patience.tries + 1):
        try:
            return await _migrate(database, store, lock_seconds=patience.lock_seconds)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _LOCKED:
                raise
        if attempt == 1:
            logger.warning("Tables of the %s are in use; trying again for a while", store.replace("_", " "))
        if attempt < patience.tries:
            await asyncio.sleep(patience.pause_seconds)
    raise TablesInUse(await _in_use(database, store, patience.tries))


async def _migrate(database: Database, store: Store, *, lock_seconds: float) -> None:
    def upgrade(connection: Connection) -> None:
        config = _config(store)
        config.attributes["connection"] = connection
        config.attributes["version_table"] = version_table(store)
        command.upgrade(config, "head")

    async with database.engine.begin() as connection:
        if database.dialect == "postgresql":
            # Two processes that start at once must not both migrate.
            await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(732118440001)")
            await connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, round(1000 * lock_seconds))}")
        await connection.run_sync(upgrade)


async def _in_use(database: Database, store: Store, tries: int) -> str:
    async with database.engine.connect() as connection:
        rows = (await connection.execute(_HOLDERS, {"tables": list(_TABLES[store])})).all()
    held = "; ".join(
        f"process {row.pid}"
        + (f", {row.state}" if row.state else "")
        + (f", since {row.xact_start:%Y-%m-%d %H:%M:%S %Z}" if row.xact_start else "")
        for row in rows
    )
    return (
        f"the {store.replace('_', ' ')} was not migrated: others held its tables {tries} times in a row"
        f" ({held or 'nobody does now'}). Nothing was changed, and the service that runs goes on. Let that transaction"
        " end, or end it with: SELECT pg_terminate_backend(process). Then run: enable-with-segment migrate"
    )
