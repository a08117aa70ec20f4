"""Builders for stored events."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from enable_with_segment.db.event_log.log import EventLog, SegmentLimits
from enable_with_segment.db.event_log.message_key import key_of_message
from enable_with_segment.db.event_log.records import ErasureReport, NewEvent, Settlement

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
COMPONENTS = ["acme-crm"]
SMALL = SegmentLimits(events=10, age=timedelta(days=1), dedupe=timedelta(days=30))
"""For SQLite: a new segment every ten events."""


def later(**units: float) -> datetime:
    """An instant after noon."""
    return NOON + timedelta(**units)


def new_event(message_id: str = "m-1", **changes: Any) -> NewEvent:
    """An identify event of one install, changed where a test needs it."""
    body = b'{"type":"identify","userId":"u-1"}'
    event = NewEvent(
        scope="install:ins_1",
        dedupe_key=key_of_message(message_id),
        received_at=NOON,
        occurred_at=NOON,
        account="acme",
        component="acme-crm",
        key_id="key_1",
        install_id="ins_1",
        message_id=message_id,
        type="identify",
        event=None,
        person_hash="person-1",
        device_hash=None,
        previous_hash=None,
        body=body,
        settings={},
    )
    return event._replace(**changes)


async def erase(log: EventLog, settlement: Settlement) -> ErasureReport | None:
    """Let a deletion come to its end."""
    report = await log.erase(settlement.event_id, settlement.lease, now=settlement.at)
    if report is not None:
        assert await settle(log, replace(settlement, ends_deletion=True))
    return report


async def settle(log: EventLog, settlement: Settlement) -> bool:
    """Record how one attempt ended."""
    (is_stored,) = await log.settle_all([settlement])
    return is_stored
