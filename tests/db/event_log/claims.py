"""Storing, claiming and settling by message id, around noon."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, TypeAlias

from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.records import ClaimedEvent, EventFilter, Settlement
from enable_with_segment.db.event_log.states import EventState
from tests.db.event_log.events import COMPONENTS, later, new_event

Claimed: TypeAlias = dict[str, ClaimedEvent]


async def claim(log: StoredEventLog, *, lease: str = "lease", now: datetime | None = None) -> Claimed:
    """Claim everything; returns it by message id."""
    now = now or later(minutes=2)
    claimed = await log.claim(COMPONENTS, limit=20, lease=lease, now=now, until=now + timedelta(minutes=1))
    names = {record.id: record.message_id or "" for record in await log.find(EventFilter())}
    return {names[event.id]: event for event in claimed}


def ended(claimed: ClaimedEvent, state: EventState = EventState.HANDLED) -> Settlement:
    return Settlement(claimed.id, claimed.lease, state, later(minutes=2))


async def store(log: StoredEventLog, message_id: str, *, at: float = 0, **changes: Any) -> None:
    """Store an event that happens some seconds after noon, when it is received as well."""
    when = later(seconds=at)
    await log.append(new_event(message_id, **{"received_at": when, "occurred_at": when, **changes}))
