"""Events are refused early when the disk is full or slow, and let in again by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.event_log import admission
from db.event_log.admission import COMMIT_BUDGET_SECONDS, Admission
from db.event_log.records import CommitsTooSlow, DiskNearlyFull
from db.event_log.sqlite import SqliteEventLog, disk_room
from tests.event_log.events import new_event


@pytest.fixture(autouse=True)
def commit_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's own budget, instead of the suite's patient one."""
    monkeypatch.setattr(admission, "COMMIT_BUDGET_SECONDS", COMMIT_BUDGET_SECONDS)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_after_a_slow_commit_nothing_is_let_in_for_as_long_as_it_took() -> None:
    clock = Clock()
    gate = Admission(clock=clock)
    with gate.timed():
        clock.now += COMMIT_BUDGET_SECONDS
    gate.check()
    with gate.timed():
        clock.now += 2 * COMMIT_BUDGET_SECONDS
    with pytest.raises(CommitsTooSlow, match="too long"):
        gate.check()
    clock.now += 2 * COMMIT_BUDGET_SECONDS
    gate.check()


async def test_a_disk_that_is_nearly_full_takes_no_events_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    log = SqliteEventLog(tmp_path / "events.db", clock=clock)
    await log.append(new_event("m-1"))
    clock.now += 1
    with monkeypatch.context() as patched:
        patched.setattr(disk_room, "LEAST_FREE_BYTES", 1 << 62)
        with pytest.raises(DiskNearlyFull, match="nearly full"):
            await log.append(new_event("m-2"))
    clock.now += 1
    assert not (await log.append(new_event("m-2"))).duplicate
    await log.close()
