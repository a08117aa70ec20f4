"""Forgetting old events, so that the log stays within its bounds and customers' data is kept no longer than said."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.records import EventLogUnavailable

logger = logging.getLogger(__name__)

GIB = 1024**3
_EVERY_SECONDS = 600.0


class Retention:
    """Lets the event log forget old events; what is still pending stays.

    Args:
        days: what was received longer ago than this is forgotten.
        most_bytes: beyond this size the oldest events are forgotten as well; ``None`` lets the log grow.
    """

    def __init__(
        self, event_log: StoredEventLog, *, days: int, most_bytes: int | None = None, clock: Clock = utc_now
    ) -> None:
        self._event_log = event_log
        self._kept = timedelta(days=days)
        self._most_bytes = most_bytes
        self._clock = clock

    async def forget(self) -> int:
        """Forget what is due; returns the number of events."""
        old = await self._event_log.drop_before(self._clock() - self._kept)
        if old:
            logger.info("Dropped %d events that were older than %d days", old, self._kept.days)
        return old + await self._forget_excess()

    async def run(self) -> None:
        """Forget again and again, until cancelled."""
        while True:
            try:
                await self.forget()
            except EventLogUnavailable as problem:
                logger.warning("Old events could not be dropped: %s", problem)
            await asyncio.sleep(_EVERY_SECONDS)

    async def _forget_excess(self) -> int:
        if self._most_bytes is None:
            return 0
        dropped = await self._event_log.drop_over(self._most_bytes)
        if dropped:
            logger.warning("Dropped the %d oldest events: the log was larger than RETENTION_GIB", dropped)
        taken = await self._event_log.size()
        if taken > self._most_bytes:
            logger.warning(
                "The event log takes %.2f GiB, more than RETENTION_GIB: the rest is pending, or in the newest segment",
                taken / GIB,
            )
        return dropped
