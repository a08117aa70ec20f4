"""Forgetting old events, so that the log stays within its bounds and customers' data is kept no longer than said."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from db.clock import Clock, utc_now
from db.event_log.log import StoredEventLog
from db.event_log.records import EventLogUnavailable

logger = logging.getLogger(__name__)

_EVERY_SECONDS = 600.0


class Retention:
    """Lets the event log forget what was received longer ago than ``days``; what is still pending stays."""

    def __init__(self, event_log: StoredEventLog, *, days: int, clock: Clock = utc_now) -> None:
        self._event_log = event_log
        self._kept = timedelta(days=days)
        self._clock = clock

    async def forget(self) -> int:
        """Forget what is due; returns the number of events."""
        return await self._event_log.drop_before(self._clock() - self._kept)

    async def run(self) -> None:
        """Forget again and again, until cancelled."""
        while True:
            try:
                forgotten = await self.forget()
            except EventLogUnavailable as problem:
                logger.warning("Old events could not be dropped: %s", problem)
            else:
                if forgotten:
                    logger.info("Dropped %d events that were older than %d days", forgotten, self._kept.days)
            await asyncio.sleep(_EVERY_SECONDS)
