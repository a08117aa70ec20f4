"""An erasure that dies at any of its writes, on SQLite, where each segment of the log is a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enable_with_segment.db.event_log.records import EventFilter, Settlement
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.db.event_log.states import EventState
from tests.db.event_log.events import COMPONENTS, NOON, SMALL, erase, later, new_event, settle
from tests.subscriptions.mortal_disk import MortalDisk
from tests.subscriptions.mortal_log import Life


@pytest.fixture
def disk() -> Iterator[MortalDisk]:
    disk = MortalDisk()
    yield disk
    disk.unregister()


async def store_a_person(log: SqliteEventLog) -> Settlement:
    """Store a deletion, and before and after it events of other ids that turn out to be the person's, all handled.

    Returns:
        How the deletion is to end.
    """
    for number in range(24):
        await log.append(new_event(f"e-{number}", person_hash="lead"))
        if number == 11:
            await log.append(new_event("d-1", type="delete"))
    await log.append(new_event("a-1", type="alias", previous_hash="lead"))
    for _ in range(2):  # the deletion waits for the merge
        for event in await log.claim(COMPONENTS, limit=100, lease="lease", now=NOON, until=later(minutes=1)):
            settlement = Settlement(event.id, event.lease, EventState.HANDLED, NOON)
            if event.type == "delete":
                return settlement
            assert await settle(log, settlement)
    raise AssertionError("the deletion was not handed out")


async def test_an_erasure_that_dies_halfway_is_not_finished_or_has_wiped_everything(
    tmp_path: Path, disk: MortalDisk
) -> None:
    finished: list[bool] = []
    while True:
        path = tmp_path / f"{len(finished)}.db"
        disk.belong_to(Life())
        log = SqliteEventLog(path, limits=SMALL)
        settlement = await store_a_person(log)
        life = Life(len(finished))
        disk.belong_to(life)
        await erase(log, settlement)
        if not life.died.is_set():
            break
        await log.close()
        disk.belong_to(Life())
        log = SqliteEventLog(path, limits=SMALL)
        (deletion,) = await log.show("d-1")
        finished.append(deletion.record.state is EventState.HANDLED)
        left = [record for record in await log.tail(0, EventFilter(), limit=100) if not record.erased]
        assert not (finished[-1] and left), f"after {len(finished)} writes"
        await log.close()
    await log.close()
    assert set(finished) == {False, True}
