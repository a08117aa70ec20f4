"""How many events wait: counted once for all in a process who want to know.

On PostgreSQL counting millions takes seconds. A load balancer that asks for readiness and a scraper cannot wait for
that each time, and the limit at receiving need not count what one of them has just counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from enable_with_segment.db.event_log.log import EventArchive
from enable_with_segment.db.event_log.records import Backlog, EventLogUnavailable

_PATIENCE_SECONDS = 0.5
_TIMES_AS_LONG = 20
_LONGEST_PAUSE_SECONDS = 120.0


class RecentBacklog:
    """Counts once for all who ask at the same moment, and tells what it knows to those who cannot wait for that.

    Attributes:
        clock: seconds; those who read from here go by it, too.
    """

    def __init__(self, event_log: EventArchive, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._event_log = event_log
        self._known: Backlog | None = None
        self._counted_at = self._next_at = float("-inf")
        self._problem = ""
        self._counting: asyncio.Task[None] | None = None
        self._pause_of_pending = 0.0

    async def read(self, *, patience_seconds: float = _PATIENCE_SECONDS) -> Backlog:
        """Return the newest figures there are.

        Args:
            patience_seconds: how long to wait for a count, once there was one.

        Raises:
            EventLogUnavailable: the log could not be asked the last time.
        """
        if self._counting is None or (self._counting.done() and self.clock() >= self._next_at):
            self._counting = asyncio.create_task(self._count())
        await asyncio.wait([self._counting], timeout=None if self._known is None else patience_seconds)
        if self._known is None:
            raise EventLogUnavailable(self._problem)
        return self._known

    async def pending(self, most: int) -> int:
        """Return how many events are pending, counted no further than ``most``, which is cheap.

        Where that is not so cheap, what was counted for somebody else stands in for it, for as long as the store would
        have been left alone after a count of this kind.

        Raises:
            EventLogUnavailable: the log cannot be asked.
        """
        if self._known is not None and self.clock() < self._counted_at + self._pause_of_pending:
            return min(self._known.pending, most)
        started = self.clock()
        try:
            return await self._event_log.count_pending(most)
        finally:
            self._pause_of_pending = pause_after(self.clock() - started)

    async def close(self) -> None:
        """Count no more, before the log is closed."""
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.wait([self._counting])

    async def _count(self) -> None:
        started = self.clock()
        try:
            self._known = await self._event_log.backlog()
        except EventLogUnavailable as problem:
            self._known, self._problem = None, str(problem)
        else:
            self._counted_at = self.clock()
            self._next_at = self._counted_at + pause_after(self._counted_at - started)


def pause_after(seconds: float) -> float:
    """Return for how long not to count again after a count that took ``seconds``: counting takes at most a twentieth
    of the time, and the pause is bounded."""
    return min(seconds * _TIMES_AS_LONG, _LONGEST_PAUSE_SECONDS)
