"""What waits is told at once, however long counting takes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from enable_with_segment.db.event_log.recent_backlog import RecentBacklog
from enable_with_segment.db.event_log.records import Backlog, EventLogUnavailable
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from tests.db.event_log.events import NOON, new_event


class Ticks:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class HeldUpLog(SqliteEventLog):
    """A log that counts only while it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go = asyncio.Event()
        self.go.set()
        self.counted = 0
        self.is_away = False
        self.counting = Ticks()
        self.seconds_for_pending = 0.0
        self.pending_counted = 0

    async def backlog(self) -> Backlog:
        self.counted += 1
        await self.go.wait()
        if self.is_away:
            raise EventLogUnavailable("it is away")
        return await super().backlog()

    async def count_pending(self, most: int) -> int:
        self.pending_counted += 1
        self.counting.now += self.seconds_for_pending
        return await super().count_pending(most)


async def test_who_cannot_wait_for_a_count_is_told_the_last_one(tmp_path: Path) -> None:
    log, ticks = HeldUpLog(tmp_path / "events.db"), Ticks()
    recent = RecentBacklog(log, clock=ticks)
    assert await recent.read() == Backlog(0, 0, None), "the first count is waited for"
    await log.append(new_event())
    log.go.clear()
    assert [await recent.read(patience_seconds=0.01) for _ in range(3)] == [Backlog(0, 0, None)] * 3
    assert log.counted == 2, "the first of them began to count, and the others know"
    log.go.set()
    async with asyncio.timeout(20):
        while await recent.read(patience_seconds=0.01) != Backlog(1, 0, NOON):
            pass
    await recent.close()
    await log.close()


async def test_it_is_counted_once_at_a_time_and_rests_for_as_long_as_that_took(tmp_path: Path) -> None:
    log, ticks = HeldUpLog(tmp_path / "events.db"), Ticks()
    recent = RecentBacklog(log, clock=ticks)
    log.go.clear()
    asking = [asyncio.create_task(recent.read(patience_seconds=60)) for _ in range(5)]
    while not log.counted:  # noqa: ASYNC110
        await asyncio.sleep(0)
    ticks.now = 3.0
    log.go.set()
    assert await asyncio.gather(*asking) == [Backlog(0, 0, None)] * 5
    await log.append(new_event())
    ticks.now = 62.9
    assert await recent.read(patience_seconds=60) == Backlog(0, 0, None)
    assert log.counted == 1
    ticks.now = 63.0
    assert await recent.read(patience_seconds=60) == Backlog(1, 0, NOON)
    assert log.counted == 2
    await log.close()


async def test_a_log_that_is_away_is_asked_again(tmp_path: Path) -> None:
    log = HeldUpLog(tmp_path / "events.db")
    recent = RecentBacklog(log, clock=Ticks())
    log.is_away = True
    for _ in range(2):
        with pytest.raises(EventLogUnavailable, match="it is away"):
            await recent.read(patience_seconds=60)
    log.is_away = False
    assert await recent.read(patience_seconds=60) == Backlog(0, 0, None)
    log.is_away = True
    with pytest.raises(EventLogUnavailable, match="it is away"):
        await recent.read(patience_seconds=60)
    await log.close()


async def test_a_count_that_hangs_keeps_no_process_from_stopping(tmp_path: Path) -> None:
    log = HeldUpLog(tmp_path / "events.db")
    recent = RecentBacklog(log, clock=Ticks())
    await recent.read(patience_seconds=60)
    log.go.clear()
    await recent.read(patience_seconds=0)
    async with asyncio.timeout(20):
        await recent.close()
    await log.close()


async def test_a_cheap_count_of_what_is_pending_is_made_each_time(tmp_path: Path) -> None:
    log = HeldUpLog(tmp_path / "events.db")
    recent = RecentBacklog(log, clock=log.counting)
    assert await recent.pending(10) == 0
    await recent.read(patience_seconds=60)
    await log.append(new_event())
    assert await recent.pending(10) == 1
    assert log.pending_counted == 2
    await log.close()


async def test_a_dear_count_of_what_is_pending_is_not_made_where_somebody_has_just_counted(tmp_path: Path) -> None:
    log = HeldUpLog(tmp_path / "events.db")
    recent = RecentBacklog(log, clock=log.counting)
    log.seconds_for_pending = 3.0
    assert await recent.pending(10) == 0
    await log.append(new_event("m-1"))
    await log.append(new_event("m-2"))
    assert await recent.pending(10) == 2, "what it counted itself it does not keep: it is asked when that is due"
    log.counting.now = 100.0
    await recent.read(patience_seconds=60)
    await log.append(new_event("m-3"))
    log.counting.now = 159.9
    assert (await recent.pending(10), await recent.pending(1)) == (2, 1)
    assert log.pending_counted == 2
    log.counting.now = 160.0
    assert await recent.pending(10) == 3, "as long as the store is left alone after such a count, and no longer"
    assert log.pending_counted == 3
    log.is_away = True
    log.counting.now = 163.1
    with pytest.raises(EventLogUnavailable):
        await recent.read(patience_seconds=60)
    assert await recent.pending(10) == 3
    assert log.pending_counted == 4, "what nobody knows is counted"
    await log.close()
