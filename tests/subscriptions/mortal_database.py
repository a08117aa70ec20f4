"""A control store of a process that dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.database import Database
from tests.subscriptions.mortal_log import Life

_ROUNDS = 20


class MortalDatabase(Database):
    """Takes a step before a transaction, before its commit and after it.

    The store answers from a thread or over a socket, sooner or later. Others go on meanwhile as far as they can, so
    that it is the same in each run of a test who is how far when the process dies.
    """

    def __init__(self, database: Database, life: Life) -> None:
        super().__init__(database.engine, database.reads)
        self._life = life
        self._running = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        await self._come_past()
        self._running += 1
        self._quiet.clear()
        try:
            async with super().transaction() as session:
                yield session
                await self._come_past()
        finally:
            self._running -= 1
            if not self._running:
                self._quiet.set()
        await self._come_past()

    async def quiet(self) -> None:
        """Wait until no transaction runs: each has ended in one way or the other, as the store sees to it."""
        await self._quiet.wait()

    async def _come_past(self) -> None:
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)
        self._life.step()
