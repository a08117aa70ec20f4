"""Storing events straight into an event log, however busy the disk is."""

from __future__ import annotations

import asyncio

from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.records import CommitsTooSlow, NewEvent

_PAUSE_SECONDS = 0.1


async def store(log: StoredEventLog, event: NewEvent) -> None:
    """Store an event; one that is refused because a commit has just taken long is offered again until it is taken."""
    while True:
        try:
            await log.append(event)
        except CommitsTooSlow:
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return
