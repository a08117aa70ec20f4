"""Events are refused early when the disk is full or slow, and let in again by themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log import admission
from enable_with_segment.db.event_log.admission import COMMIT_BUDGET_SECONDS, Admission
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.postgresql import group_inserter
from enable_with_segment.db.event_log.postgresql.log import SqlEventLog
from enable_with_segment.db.event_log.records import CommitsTooSlow, DiskNearlyFull
from enable_with_segment.db.event_log.sqlite import SqliteEventLog, disk_room
from tests.db.event_log.events import new_event

DOCS = Path(__file__).parents[3] / "docs"


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


def test_a_commit_that_takes_too_long_counts_while_it_runs() -> None:
    clock = Clock()
    gate = Admission(clock=clock)
    with gate.timed():
        clock.now += COMMIT_BUDGET_SECONDS
        gate.check()
        clock.now += 1
        with pytest.raises(CommitsTooSlow):
            gate.check()
    clock.now += COMMIT_BUDGET_SECONDS + 1
    gate.check()


@pytest.mark.parametrize("page", ["monitoring.md", "performance.md"])
def test_the_budget_is_what_the_documentation_says(page: str) -> None:
    assert COMMIT_BUDGET_SECONDS == 1.5
    assert "1.5 s" in (DOCS / page).read_text()


async def let_in(log: StoredEventLog, message_id: str) -> bool:
    try:
        await log.append(new_event(message_id))
    except CommitsTooSlow:
        return False
    return True


async def test_while_postgresql_commits_slowly_events_are_refused_at_once(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_inserter, "_ANSWER_SECONDS", 60)
    clock = Clock()
    beside = Database.open(postgresql_url)
    log = SqlEventLog(Database.open(postgresql_url), clock=clock)
    try:
        assert await let_in(log, "m-1")
        async with asyncio.timeout(60):
            async with beside.engine.begin() as other:
                await other.exec_driver_sql("LOCK TABLE message_keys")
                waiting = log.append(new_event("m-2"))
                for _ in range(20):
                    await asyncio.sleep(0)
                also_waiting = log.append(new_event("m-3"))
                clock.now += 2 * COMMIT_BUDGET_SECONDS
                assert not await let_in(log, "m-4")
            assert not (await waiting).duplicate
            assert not (await also_waiting).duplicate
        assert not await let_in(log, "m-4")
        clock.now += 2 * COMMIT_BUDGET_SECONDS
        assert await let_in(log, "m-4")
    finally:
        await beside.close()
        await log.close()


async def test_a_delete_that_takes_long_on_postgresql_holds_up_nobody_else(postgresql_url: str) -> None:
    clock = Clock()
    beside = Database.open(postgresql_url)
    log = SqlEventLog(Database.open(postgresql_url), clock=clock)
    try:
        async with asyncio.timeout(60):
            async with beside.engine.begin() as other:
                await other.exec_driver_sql("LOCK TABLE erasures")
                delete = asyncio.ensure_future(log.append(new_event("d-1", type="delete")))
                while not await _waits_for_a_lock(beside):  # noqa: ASYNC110  another process waits
                    await asyncio.sleep(0.01)
                assert not (await log.append(new_event("m-1"))).duplicate
                clock.now += 2 * COMMIT_BUDGET_SECONDS
                assert await let_in(log, "m-2")
                assert not delete.done()
            assert not (await delete).duplicate
        assert await let_in(log, "m-3")
    finally:
        await beside.close()
        await log.close()


async def test_the_first_of_many_deletes_does_not_wait_for_the_last_on_postgresql(postgresql_url: str) -> None:
    log = SqlEventLog(Database.open(postgresql_url))
    deletes = [
        asyncio.ensure_future(log.append(new_event(f"d-{number}", type="delete", person_hash=f"p-{number}")))
        for number in range(50)
    ]
    stored, waiting = await asyncio.wait(deletes, return_when=asyncio.FIRST_COMPLETED)
    assert stored
    assert waiting
    assert len({delete.event_id for delete in await asyncio.gather(*deletes)}) == 50
    await log.close()


_WAITING = (
    "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
    " WHERE datname = current_database() AND NOT granted"
)


async def _waits_for_a_lock(database: Database) -> bool:
    async with database.engine.connect() as connection:
        waiting = await connection.exec_driver_sql(_WAITING)
        return bool(waiting.scalar_one())


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
