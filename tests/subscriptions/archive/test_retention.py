"""WH-16: what was received is kept for as long as said, and no longer."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from enable_with_segment.db.event_log.log import SegmentLimits
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import EventFilter, Settlement
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.subscriptions.archive.retention import Retention
from tests.db.event_log.events import NOON, later, new_event, settle
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
        await settle(log, Settlement(event.id, "a", EventState.HANDLED, later(days=3)))
    clock.now = NOON + timedelta(days=30)
    assert await retention.forget() == 0, "it is not older than thirty days"
    clock.advance(seconds=1)
    assert await retention.forget() == 1
    assert [record.message_id for record in await log.tail(0, EventFilter())] == ["m-1", "m-2"]
    await log.close()
    assert b"m-0" not in _everything_in(tmp_path)


async def test_wh_16_beyond_its_size_the_log_forgets_the_oldest_events_and_never_a_pending_one(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = database_url.replace("control.db", "events.db")
    log, clock = open_event_log(url, segment_limits=SegmentLimits(age=timedelta(days=1))), Clock()
    clock.now = later(days=4)
    for day in range(4):
        await log.append(new_event(f"m-{day}", received_at=later(days=day), body=b"%d" % day * 500_000))
    assert await Retention(log, days=30, clock=clock).forget() == 0, "nothing bounds it"
    assert await Retention(log, days=30, most_bytes=1, clock=clock).forget() == 0, "they were never handled"
    assert "more than RETENTION_GIB" in caplog.text
    now = later(days=3)
    for event in await log.claim(["acme-crm"], limit=9, lease="a", now=now, until=later(days=4)):
        await settle(log, Settlement(event.id, "a", EventState.HANDLED, now))
    full = await log.size()
    assert await Retention(log, days=30, most_bytes=full, clock=clock).forget() == 0, "it is within its bound"
    assert await Retention(log, days=30, most_bytes=full - 1, clock=clock).forget() == 1
    assert await Retention(log, days=30, most_bytes=1, clock=clock).forget() == 2
    assert [record.message_id for record in await log.tail(0, EventFilter())] == ["m-3"]
    assert await log.size() < full
    await log.close()


def _everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())
