"""How many events may wait to be handled: beyond that deliveries are refused unread, until enough have been handled.

A backlog that nobody works off would grow until the disk is full, and then nothing can be handled any more, nor erased.
What is refused Segment tries again for four hours and keeps in its archive after that (contract 5.7).

Everything is refused, deletes too: what a delivery is stands in its body, and that is not read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from enable_with_segment.db.event_log.recent_backlog import RecentBacklog, pause_after
from enable_with_segment.db.event_log.records import EventLogUnavailable
from enable_with_segment.subscriptions.receiving.concurrency_limit import ConcurrencyLimit

logger = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 2.0
_LONGEST_COUNT_SECONDS = 60.0
_OPEN_BELOW_PERCENT = 90


class BacklogLimit:
    """Counts pending events every few seconds, and shuts and opens the door for all deliveries of this process.

    Between two counts as many are taken as arrive. While they cannot be counted the door stays as it is.

    Args:
        concurrency_limit: the webhooks': all that comes in asks it.
        most: with so many pending events the door is shut; it opens with less than nine tenths of that.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        recent_backlog: RecentBacklog,
        concurrency_limit: ConcurrencyLimit,
        *,
        most: int,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.most = most
        self._recent_backlog = recent_backlog
        self._concurrency_limit = concurrency_limit
        self._sleep = sleep
        self._cannot_count = False

    @property
    def is_reached(self) -> bool:
        """Whether deliveries are refused for it."""
        return self._concurrency_limit.is_shut

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        clock = self._recent_backlog.clock
        while True:
            started = clock()
            await self.look()
            await self._sleep(max(_LOOK_EVERY_SECONDS, pause_after(clock() - started)))

    async def look(self) -> None:
        """Count, and shut or open the door."""
        try:
            async with asyncio.timeout(_LONGEST_COUNT_SECONDS):
                pending = await self._recent_backlog.pending(self.most)
        except (EventLogUnavailable, TimeoutError) as problem:
            if not self._cannot_count:
                logger.warning("Pending events cannot be counted (%s)", type(problem.__cause__ or problem).__name__)
            self._cannot_count = True
            return
        self._cannot_count = False
        if not self.is_reached and pending >= self.most:
            self._concurrency_limit.shut()
            logger.warning(
                "Answering 503: %d events or more wait to be handled, as many as MOST_PENDING_EVENTS allows;"
                " deliveries are taken again when less than %d %% of them do",
                pending,
                _OPEN_BELOW_PERCENT,
            )
        elif self.is_reached and pending * 100 < self.most * _OPEN_BELOW_PERCENT:
            self._concurrency_limit.open()
            logger.warning("Deliveries are taken again: %d events wait to be handled", pending)
