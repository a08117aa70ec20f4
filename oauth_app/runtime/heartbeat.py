"""A process that says it runs, and which encryption keys it knows: the ids, never the keys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.exc import SQLAlchemyError

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import heartbeats as running_processes
from enable_with_segment.db.database import Database

logger = logging.getLogger(__name__)

_EVERY_SECONDS = 15.0
"""A quarter of the time after which a silent process counts as ended."""


class Heartbeat:
    """One process.

    Args:
        process_id: ``host:pid:something`` that no other process has.
        key_ids: the encrypting one first.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        database: Database,
        process_id: str,
        *,
        role: str,
        key_ids: Sequence[str],
        clock: Clock = utc_now,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._process_id = process_id
        self._role = role
        self._key_ids = tuple(key_ids)
        self._clock = clock
        self._sleep = sleep
        self._started_at = clock()

    async def announce(self) -> None:
        """Say it once: before anything is encrypted here."""
        async with self._database.transaction() as session:
            await running_processes.note(
                session,
                self._process_id,
                role=self._role,
                key_ids=self._key_ids,
                started_at=self._started_at,
                now=self._clock(),
            )

    async def run(self) -> None:
        """Say it again and again, until cancelled."""
        while True:
            await self._sleep(_EVERY_SECONDS)
            try:
                await self.announce()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("could not write down that this process runs (%s)", type(error).__name__)

    async def leave(self) -> None:
        """Say that the process ends; when the store is away, its silence says so."""
        try:
            async with self._database.transaction() as session:
                await running_processes.forget(session, self._process_id)
        except (SQLAlchemyError, OSError) as error:
            logger.warning("could not write down that this process ends (%s)", type(error).__name__)
