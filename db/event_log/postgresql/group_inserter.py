"""The short way into PostgreSQL: one statement that commits by itself, on a connection kept for nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.postgresql.appending import INSERT_GROUP, parameters
from enable_with_segment.db.event_log.records import NewEvent

_ANSWER_SECONDS = 3.0
"""Segment waits 5 seconds (contract 5.7). Who waits for longer than this is refused, and nobody after them has to wait
for the same silence: a server that is gone without a word is noticed by TCP after a quarter of an hour."""


class GroupInserter:
    """Inserts groups of events. A connection that failed is given up, and the next group gets another one.

    So is one that gave no answer in time. What was sent on it may be stored all the same; when the event comes again it
    is known as a duplicate.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: AsyncConnection | None = None
        self._driver: asyncpg.Connection[Any] | None = None

    async def insert(self, events: Sequence[NewEvent]) -> list[int | None]:
        """Store the events that are new; returns the id of each of those, durable, and ``None`` for a duplicate.

        Raises:
            TimeoutError: the server took too long.
        """
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                driver = self._driver or await self._open()
                ids: list[int | None] = await driver.fetchval(INSERT_GROUP, *parameters(events))
        except BaseException:
            await self.close()
            raise
        return ids

    async def close(self) -> None:
        """Give the connection up, without a word: there may be nobody to hear it."""
        connection, driver = self._connection, self._driver
        self._connection = self._driver = None
        if driver is not None:
            driver.terminate()
        if connection is not None:
            await connection.invalidate()
            await connection.close()

    async def _open(self) -> asyncpg.Connection[Any]:
        self._connection = await self._database.engine.connect()
        driver: asyncpg.Connection[Any] = (await self._connection.get_raw_connection()).driver_connection
        # The parts of a group are put together by hash: there is no index over what is not stored yet.
        await driver.execute("SET enable_hashjoin = on")
        # Nobody waits for a statement that takes longer: it shall not wait either, for a lock or a turn.
        await driver.execute(f"SET statement_timeout = {_ANSWER_SECONDS * 1_000:.0f}")
        self._driver = driver
        return driver
