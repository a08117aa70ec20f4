"""Looking at every install from time to time: each at its own moment, so that the looks are spread over the day."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import installs, outbox
from enable_with_segment.db.database import Database
from enable_with_segment.installs.reconciliation import queue_checks

_MOST_AT_ONCE = 60
_KEEP_FINISHED = timedelta(days=30)


class ReconciliationSweep:
    """Queues looks at installs whose time has come. Any number of processes may run one: they share the work.

    Args:
        interval: between two looks at the same install.
        wake: called when something was queued.
        pause: between two searches.
        jitter: a number from 0 to 1, which says when within the interval a new install is looked at first.
    """

    def __init__(
        self,
        database: Database,
        *,
        interval: timedelta,
        wake: Callable[[], None],
        clock: Clock = utc_now,
        pause: timedelta = timedelta(minutes=1),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._interval = interval
        self._wake = wake
        self._clock = clock
        self._pause = pause
        self._jitter = jitter

    async def run(self) -> None:
        """Search until cancelled."""
        while True:
            if await self.queue_due():
                self._wake()
            await asyncio.sleep(self._pause.total_seconds())

    async def queue_due(self) -> int:
        """Queue what is due, give new installs their moment, and clear old outbox entries; returns how many are due."""
        now = self._clock()
        async with self._database.transaction() as session:
            for install_id in await installs.without_check(session, limit=_MOST_AT_ONCE):
                await installs.set_check(session, install_id, due=now + self._interval * self._jitter())
            due = await installs.claim_checks(session, now=now, next_due=now + self._interval, limit=_MOST_AT_ONCE)
            queued = await queue_checks(session, due, now=now)
            await outbox.purge(session, finished_before=now - _KEEP_FINISHED)
        return queued
