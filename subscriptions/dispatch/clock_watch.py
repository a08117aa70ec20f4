"""Notices that the wall clock was set back, and brings forward the events that would wait until it catches up.

An event is due from when it was received, so one that was received while the clock was ahead would wait as long as the
clock was ahead. That is looked after here, once for each time the clock was set, and not with every claim.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime, timedelta

from enable_with_segment.db.clock import Clock
from enable_with_segment.db.event_log.log import EventLog
from enable_with_segment.db.event_log.records import EventLogUnavailable
from enable_with_segment.subscriptions.dispatch.outcome import LONGEST_WAIT

logger = logging.getLogger(__name__)

_TOLERANCE = timedelta(seconds=1)
_ON_THEIR_WAY = timedelta(seconds=15)
"""How long an event may be on its way into the log with the time of the clock as it was before."""


class ClockWatch:
    """Compares the clock with what it said before.

    At the start nobody knows what happened to the clock, so that counts as one time. A clock that goes back by less
    than a second delays nothing for longer than that.
    """

    def __init__(self, event_log: EventLog, components: Collection[str], clock: Clock) -> None:
        self._log = event_log
        self._components = components
        self._clock = clock
        self._latest: datetime | None = None
        self._once_more_at: datetime | None = None
        self._longest_wait: timedelta | None = LONGEST_WAIT

    async def look(self) -> None:
        """Bring events forward, if the clock was set back since the last look; later, if the log is away."""
        now = self._clock()
        if self._latest is None or now > self._latest:
            self._latest = now
        elif now < self._latest - _TOLERANCE:
            logger.warning("The clock was set back by %s: events that wait for it are due now", self._latest - now)
            # Retries as well: a handler whose wait began before that is not called any earlier.
            self._longest_wait = timedelta(0)
            self._latest, self._once_more_at = now, now + _ON_THEIR_WAY
        if self._once_more_at is not None and now >= self._once_more_at:
            self._once_more_at = None
            if self._longest_wait is None:
                self._longest_wait = LONGEST_WAIT
        if self._longest_wait is not None:
            await self._bring_forward(now, now + self._longest_wait)

    async def _bring_forward(self, now: datetime, attempted_from: datetime) -> None:
        try:
            count = await self._log.bring_forward(self._components, now=now, attempted_from=attempted_from)
        except EventLogUnavailable as error:
            logger.warning("Events that wait for the clock cannot be looked for: %s", error)
            return
        self._longest_wait = None
        if count:
            logger.info("%d events need not wait for the clock", count)
