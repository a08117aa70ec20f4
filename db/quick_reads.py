"""Reading a few rows while the event loop has much to do.

An ``AsyncSession`` waits for its driver five to ten times on the way to one row. Each time the event loop goes round
once, and under overload that takes a tenth of a second: what may be a second old at most would never be read in time.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from typing import Protocol, TypeVarTuple

from sqlalchemy import URL, Engine, NullPool, Row, Select
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from enable_with_segment.db.postgresql_connection import PostgresqlConnection

_Columns = TypeVarTuple("_Columns")

_AGAIN_SECONDS = 0.005
_PATIENCE_SECONDS = 10.0
_ANSWER_SECONDS = 3.0
"""A server that is gone without a word is noticed by TCP after a quarter of an hour."""


class QuickReads(Protocol):
    """Runs statements that read, each by itself and outside of any transaction."""

    async def rows(self, statement: Select[*_Columns]) -> Sequence[Row[*_Columns]]:
        """Return all rows of a ``SELECT``, as committed."""
        ...

    async def close(self) -> None:
        """Let go of the store."""
        ...


class LocalReads:
    """Reads from a file through a synchronous engine, in the event loop: that takes less time than going elsewhere.

    Only a writer who is just committing is waited for, and then the loop goes on meanwhile.

    Args:
        engine: of one connection, with a ``busy_timeout`` of nothing.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def rows(self, statement: Select[*_Columns]) -> Sequence[Row[*_Columns]]:
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE_SECONDS
        while True:
            try:
                with Session(self._engine) as session:
                    return session.execute(statement).all()
            except OperationalError as error:
                if not _is_locked(error) or loop.time() >= until:
                    raise
            await asyncio.sleep(_AGAIN_SECONDS)

    async def close(self) -> None:
        self._engine.dispose()


def _is_locked(error: OperationalError) -> bool:
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY  # above it: why it is


class ThreadReads:
    """Reads in an event loop of its own, in a thread, by one connection that is kept.

    What its driver has to wait for is waited for there; the caller waits once, for the answer. A connection that
    failed, or gave no answer in time, is given up; what one that had been kept could not read is read by a new one,
    unless there is no time left. Then ``TimeoutError`` is raised.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._engine: AsyncEngine | None = None
        self._connection: AsyncConnection | None = None
        self._turn = asyncio.Lock()

    async def rows(self, statement: Select[*_Columns]) -> Sequence[Row[*_Columns]]:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run, args=(self._loop,), name="quick reads", daemon=True)
            self._thread.start()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._rows(statement), self._loop))

    async def close(self) -> None:
        if self._loop is None or self._thread is None:
            return
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._let_go(), self._loop))
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop = self._thread = None

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            loop.close()

    async def _rows(self, statement: Select[*_Columns]) -> Sequence[Row[*_Columns]]:
        async with self._turn, asyncio.timeout(_ANSWER_SECONDS):
            if self._connection is not None:
                try:
                    return await self._read(self._connection, statement)
                except DBAPIError as error:
                    if not error.connection_invalidated:
                        raise
            if self._engine is None:
                self._engine = create_async_engine(
                    self._url,
                    poolclass=NullPool,
                    isolation_level="AUTOCOMMIT",
                    hide_parameters=True,
                    connect_args={"connection_class": PostgresqlConnection},
                )
            self._connection = await self._engine.connect()
            return await self._read(self._connection, statement)

    async def _read(self, connection: AsyncConnection, statement: Select[*_Columns]) -> Sequence[Row[*_Columns]]:
        try:
            async with AsyncSession(connection) as session:
                return (await session.execute(statement)).all()
        except BaseException:
            await self._let_go()
            raise

    async def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.invalidate()
            await connection.close()
