"""Opening a store: engines for SQLite and PostgreSQL, and the one way to run a transaction.

Errors never repeat what a statement was given: it may be a ciphertext, or what an event says of a person.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, StaticPool, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.postgresql_connection import PostgresqlConnection, drop_silent
from enable_with_segment.db.private_file import make_private
from enable_with_segment.db.quick_reads import LocalReads, QuickReads, ThreadReads
from enable_with_segment.db.sqlite_connection import ImpatientSqliteConnection, SqliteConnection
from enable_with_segment.db.store_url import DatabaseUrlInvalid, StoreUrl

_POSTGRESQL_SECONDS = 30.0
"""How long a transaction may take: far longer than any of ours does, so that only a server that went silent ends it."""
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


class Database:
    """One store. ``transaction()`` commits on a clean exit and rolls back on an exception.

    Attributes:
        reads: for what has to be known soon, however much the event loop has to do.
    """

    def __init__(self, engine: AsyncEngine, reads: QuickReads) -> None:
        self.engine = engine
        self.reads = reads
        self._seconds = None if self.dialect == "sqlite" else _POSTGRESQL_SECONDS

    @classmethod
    def open(cls, url: str) -> Database:
        """Open ``sqlite+aiosqlite:///path`` or ``postgresql+asyncpg://...`` (a missing folder is made).

        Raises:
            DatabaseUrlInvalid: another scheme, or text that is no URL.
        """
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite":
            return cls(_sqlite_engine(parsed), LocalReads(_sqlite_reading_engine(parsed)))
        engine = create_async_engine(
            parsed,
            pool_size=5,
            max_overflow=5,
            hide_parameters=True,
            connect_args={"connection_class": PostgresqlConnection},
        )
        drop_silent(engine.sync_engine)
        return cls(engine, ThreadReads(parsed))

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.engine.dialect.name

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Run one short transaction. Never hold it across an HTTP call.

        Raises:
            TimeoutError: PostgreSQL did not get to the end of it within 30 s. It may have been committed.
        """
        async with asyncio.timeout(self._seconds):
            async with AsyncSession(self.engine, expire_on_commit=False) as session, session.begin():
                yield session

    async def close(self) -> None:
        await self.reads.close()
        await self.engine.dispose()


def parse_url(url: str) -> URL:
    """Parse and normalise a store's URL; a scheme without a driver gets ours.

    Raises:
        DatabaseUrlInvalid: not SQLite and not PostgreSQL, or not a URL. The text never holds the password.
    """
    driver = _DRIVERS[StoreUrl.parse(url).backend]
    try:
        return make_url(url).set(drivername=driver)
    except (ArgumentError, ValueError):
        raise DatabaseUrlInvalid("the value is not a URL of that form") from None


def _sqlite_engine(url: URL) -> AsyncEngine:
    """An engine with exactly one connection and a rollback journal.

    The write-ahead log of SQLite before 3.51.3 can corrupt a file when two connections write or checkpoint at
    once, and the command line writes beside the server. The control store is small, so it uses the journal mode
    that has no such fault; ``BEGIN IMMEDIATE`` makes writers queue instead of failing half-way.
    """
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(
        url,
        pool_size=1,
        max_overflow=0,
        pool_timeout=30,
        hide_parameters=True,
        connect_args={"factory": SqliteConnection},
    )

    _keep_private(engine.sync_engine, url)

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _sqlite_reading_engine(url: URL) -> Engine:
    """An engine of one more connection, for single statements that read."""
    engine = create_engine(
        url.set(drivername="sqlite"),
        poolclass=StaticPool,
        hide_parameters=True,
        connect_args={"factory": ImpatientSqliteConnection},
    )
    _keep_private(engine, url)
    return engine


def _keep_private(engine: Engine, url: URL) -> None:
    @event.listens_for(engine, "do_connect")
    def _make(_dialect: Any, _record: Any, _arguments: Any, _options: Any) -> None:
        if url.database:
            make_private(Path(url.database))
