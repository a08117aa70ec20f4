"""How many events wait, for those who ask often and cannot wait long: load balancers.

On PostgreSQL counting millions takes seconds. A process that is taken out of the balancing because ``/readyz`` answers
late for that would be missing just when it has most to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from db.event_log.counting_pause import pause_after
from db.event_log.log import EventArchive
from db.event_log.records import Backlog, EventLogUnavailable

_PATIENCE_SECONDS = 0.5


class RecentBacklog:
    """Counts once for all who ask at the same moment, and tells what it knows to those who cannot wait for that.

    Args:
        clock: seconds.
        patience_seconds: how long somebody waits for a count, once there was one.
    """

    def __init__(
        self,
        event_log: EventArchive,
        *,
        clock: Callable[[], float] = time.monotonic,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._event_log = event_log
        self._clock = clock
        self._patience = patience_seconds
        self._known: Backlog | None = None
        self._problem = ""
        self._counting: asyncio.Task[None] | None = None
        self._next_at = float("-inf")

    async def read(self) -> Backlog:
        """Return the newest figures there are.

        Raises:
            EventLogUnavailable: the log could not be asked the last time.
        """
        if self._counting is None or (self._counting.done() and self._clock() >= self._next_at):
            self._counting = asyncio.create_task(self._count())
        await asyncio.wait([self._counting], timeout=None if self._known is None else self._patience)
        if self._known is None:
            raise EventLogUnavailable(self._problem)
        return self._known

    async def close(self) -> None:
        """Count no more, before the log is closed."""
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.wait([self._counting])

    async def _count(self) -> None:
        started = self._clock()
        try:
            self._known = await self._event_log.backlog()
        except EventLogUnavailable as problem:
            self._known, self._problem = None, str(problem)
        else:
            ended = self._clock()
            self._next_at = ended + pause_after(ended - started)
