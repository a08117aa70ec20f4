"""WH-16: what was received is kept for as long as said, and no longer."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from db.event_log.records import EventFilter, Settlement
from db.event_log.segment_limits import SegmentLimits
from db.event_log.sqlite import SqliteEventLog
from db.event_log.tables import EventState
from subscriptions.archive.retention import Retention
from tests.event_log.events import NOON, later, new_event
from tests.subscriptions.receiver import Clock


async def test_wh_16_events_are_forgotten_once_they_are_old_and_finished_with(tmp_path: Path) -> None:
    log, clock = SqliteEventLog(tmp_path / "events.db", limits=SegmentLimits(age=timedelta(days=1))), Clock()
    for day in range(3):
        await log.append(new_event(f"m-{day}", received_at=later(days=day)))
    retention = Retention(log, days=30, clock=clock)
    clock.now = later(days=31)
    assert await retention.forget() == 0, "it was never handled"
    claimed = await log.claim(["acme-crm"], limit=9, lease="a", now=later(days=3), until=later(days=4))
    for event in claimed:
        await log.settle(Settlement(event.id, "a", EventState.HANDLED, later(days=3)))
    clock.now = NOON + timedelta(days=30)
    assert await retention.forget() == 0, "it is not older than thirty days"
    clock.advance(seconds=1)
    assert await retention.forget() == 1
    assert [record.message_id for record in await log.tail(0, EventFilter())] == ["m-1", "m-2"]
    await log.close()
    assert b"m-0" not in _everything_in(tmp_path)


def _everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())
