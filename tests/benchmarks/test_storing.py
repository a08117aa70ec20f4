"""A busy disk holds a measurement up; it does not end it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.storing import store
from enable_with_segment.db.event_log.records import CommitsTooSlow, DiskNearlyFull
from enable_with_segment.db.event_log.sqlite import SqliteEventLog, disk_room
from tests.db.event_log.events import new_event


async def test_an_event_that_is_refused_after_a_slow_commit_is_stored_later(tmp_path: Path) -> None:
    now = 0.0
    log = SqliteEventLog(tmp_path / "events.db", clock=lambda: now)
    with log._admission.timed():
        now += 100
    with pytest.raises(CommitsTooSlow):
        await log.append(new_event("m-1"))
    storing = asyncio.create_task(store(log, new_event("m-1")))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not storing.done()
    now += 100
    await storing
    assert (await log.prove(["m-1"])).missing == ()
    await log.close()


async def test_what_waiting_does_not_mend_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_room, "LEAST_FREE_BYTES", 1 << 62)
    log = SqliteEventLog(tmp_path / "events.db")
    with pytest.raises(DiskNearlyFull):
        await store(log, new_event("m-1"))
    await log.close()
