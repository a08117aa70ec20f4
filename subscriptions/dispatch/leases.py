"""The events this process holds: renewed while it works on them, given back when it lets go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import groupby
from operator import attrgetter

from enable_with_segment.db.clock import Clock
from enable_with_segment.db.event_log.log import EventLog
from enable_with_segment.db.event_log.records import ClaimedEvent, EventLogUnavailable
from enable_with_segment.db.identifiers import new_id
from enable_with_segment.subscriptions.dispatch.claim_trouble import ClaimTrouble

logger = logging.getLogger(__name__)


class Leases:
    """Claims events of an event log and keeps the claims alive.

    Args:
        seconds: how long a claim outlives this process; it is renewed three times as often.
        monotonic: a clock in seconds that only goes forward, for how long claiming fails.
    """

    def __init__(
        self, event_log: EventLog, *, seconds: float, clock: Clock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = event_log
        self._length = timedelta(seconds=seconds)
        self._clock = clock
        self._held: dict[str, set[int]] = defaultdict(set)
        self._trouble = ClaimTrouble(monotonic)

    @property
    def count(self) -> int:
        """How many events are held."""
        return sum(map(len, self._held.values()))

    async def claim(self, components: Collection[str], *, limit: int, skip: Collection[str] = ()) -> list[ClaimedEvent]:
        """Claim due events, but none of the senders in ``skip``; none at all when the log cannot be reached."""
        lease, now = new_id("lea"), self._clock()
        try:
            claimed = await self._log.claim(
                components, limit=limit, lease=lease, now=now, until=now + self._length, skip=skip
            )
        except EventLogUnavailable as error:
            self._trouble.met(str(error))
            return []
        self._trouble.over()
        if claimed:
            self._held[lease].update(event.id for event in claimed)
        return claimed

    def begin(self, claimed: Iterable[ClaimedEvent]) -> None:
        """Note in the log that handlers are about to be called with events."""
        for lease, events in groupby(claimed, key=attrgetter("lease")):
            self._log.begin(lease, [event.id for event in events])

    def drop(self, claimed: ClaimedEvent) -> bool:
        """Renew an event no longer: it was settled, or its result could not be stored. Tells whether it was held."""
        held = self._held.get(claimed.lease, set())
        was_held = claimed.id in held
        held.discard(claimed.id)
        if not held:
            self._held.pop(claimed.lease, None)
        return was_held

    async def release_all(self) -> None:
        """Give every event back, so that nobody has to wait for the lease to end."""
        for lease, event_ids in list(self._held.items()):
            with suppress(EventLogUnavailable):
                await self._log.release(lease, sorted(event_ids))
        self._held.clear()

    @asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        """Renew what is held, in the background, as long as the block runs."""
        renewing = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._length.total_seconds() / 3)
            for lease, event_ids in list(self._held.items()):
                try:
                    await self._log.renew(lease, sorted(event_ids), until=self._clock() + self._length)
                except EventLogUnavailable as error:
                    logger.warning("A lease could not be renewed: %s", error)
                except Exception:  # without renewals every event that takes long would be handed out twice
                    logger.exception("A lease could not be renewed")
