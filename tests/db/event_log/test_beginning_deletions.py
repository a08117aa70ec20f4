"""A deletion begins when nobody works on what it covers; what comes to light after that is a deletion of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.postgresql import claiming, deletion
from enable_with_segment.db.event_log.postgresql import log as sql
from enable_with_segment.db.event_log.records import HandlerResult, Settlement
from enable_with_segment.db.event_log.states import EventState, HandlerState
from tests.db.event_log.claims import claim, ended, store
from tests.db.event_log.events import COMPONENTS, NOON, erase, later, settle


async def is_there(log: StoredEventLog, message_id: str) -> bool:
    (detail,) = await log.show(message_id)
    return detail.body is not None


async def test_a_delete_waits_for_the_events_of_an_id_that_is_merged_after_it_was_stored(
    event_log: StoredEventLog,
) -> None:
    await store(event_log, "e-1", person_hash="lead")
    working = await claim(event_log)
    await store(event_log, "d-1", at=10, type="delete")
    await store(event_log, "a-1", at=20, occurred_at=later(seconds=5), type="alias", previous_hash="lead")
    merging = await claim(event_log)
    assert [(name, event.suppressed) for name, event in merging.items()] == [("a-1", False)]
    assert await settle(event_log, ended(merging["a-1"]))
    assert await claim(event_log) == {}, "somebody works on an event of the other id"
    assert await settle(event_log, ended(working["e-1"]))
    deleting = await claim(event_log)
    report = await erase(event_log, ended(deleting["d-1"]))
    assert report is not None
    assert (report.merged_ids, report.events) == (1, 2)
    assert not await is_there(event_log, "e-1")


async def test_a_merge_that_comes_too_late_waits_for_the_events_of_the_other_id(event_log: StoredEventLog) -> None:
    await store(event_log, "e-1", person_hash="lead")
    working = await claim(event_log)
    await store(event_log, "d-1", at=10, type="delete")
    assert await erase(event_log, ended((await claim(event_log))["d-1"])) is not None
    await store(event_log, "a-1", at=20, occurred_at=later(seconds=5), type="alias", previous_hash="lead")
    assert await claim(event_log) == {}
    assert await is_there(event_log, "e-1")
    assert await settle(event_log, ended(working["e-1"]))
    merging = await claim(event_log)
    assert merging["a-1"].erased_through == later(seconds=10)
    await store(event_log, "e-2", at=30, occurred_at=later(seconds=6), person_hash="lead")
    assert (await claim(event_log))["e-2"].suppressed, "the other id is being deleted"
    report = await erase(event_log, ended(merging["a-1"], EventState.SUPPRESSED))
    assert report is not None
    assert (report.merged_ids, report.events) == (0, 2)
    assert not await is_there(event_log, "e-1")


async def test_a_merge_that_comes_too_late_may_name_a_device_only(event_log: StoredEventLog) -> None:
    await store(event_log, "e-1", device_hash="phone")
    assert await settle(event_log, ended((await claim(event_log))["e-1"]))
    await store(event_log, "d-1", at=10, type="delete")
    assert await erase(event_log, ended((await claim(event_log))["d-1"])) is not None
    device = {"person_hash": None, "device_hash": "phone"}
    await store(event_log, "a-1", at=20, occurred_at=later(seconds=5), type="alias", previous_hash="lead", **device)
    merging = (await claim(event_log))["a-1"]
    assert merging.suppressed
    report = await erase(event_log, ended(merging, EventState.SUPPRESSED))
    assert report is not None
    assert report.events == 0
    assert not await is_there(event_log, "a-1")


async def test_a_merge_of_somebody_who_is_being_deleted_is_a_deletion_of_its_own(event_log: StoredEventLog) -> None:
    await store(event_log, "d-1", at=10, type="delete")
    deleting = await claim(event_log)
    event_log.begin("lease", [deleting["d-1"].id])
    await store(event_log, "e-1", person_hash="lead")
    found = await claim(event_log)
    await store(event_log, "a-1", at=20, occurred_at=later(seconds=5), type="alias", previous_hash="lead")
    assert await claim(event_log) == {}
    # The deletion fails, and is tried again: whom it covers has been decided.
    again = Settlement(deleting["d-1"].id, "lease", EventState.PENDING, later(minutes=2), available_at=NOON)
    assert await settle(event_log, again)
    deleting = await claim(event_log)
    report = await erase(event_log, ended(deleting["d-1"]))
    assert report is not None
    assert (report.merged_ids, report.events) == (0, 0)
    assert await is_there(event_log, "a-1")
    assert await settle(event_log, ended(found["e-1"]))
    merging = await claim(event_log)
    assert merging["a-1"].suppressed
    assert await erase(event_log, ended(merging["a-1"], EventState.SUPPRESSED)) is not None
    assert not await is_there(event_log, "e-1")


async def test_a_merge_that_was_given_up_as_a_deletion_can_be_tried_again_after_the_person_was_deleted(
    event_log: StoredEventLog,
) -> None:
    await store(event_log, "d-1", at=10, type="delete")
    deleting = (await claim(event_log))["d-1"]
    event_log.begin("lease", [deleting.id])
    await store(event_log, "a-1", at=20, occurred_at=later(seconds=5), type="alias", previous_hash="lead")
    assert await settle(event_log, ended((await claim(event_log))["a-1"], EventState.DEAD_LETTER))
    assert await erase(event_log, ended(deleting)) is not None
    assert await event_log.retry_dead_letters(None, now=later(minutes=2)) == 1
    assert (await claim(event_log))["a-1"].erased_through == later(seconds=10)


async def test_a_delete_that_one_handler_has_done_has_begun_when_it_is_tried_again(event_log: StoredEventLog) -> None:
    await store(event_log, "d-1", at=10, type="delete")
    deleting = (await claim(event_log))["d-1"]
    event_log.begin("lease", [deleting.id])
    results = (HandlerResult("done", HandlerState.DONE, None), HandlerResult("not", HandlerState.FAILED, "no"))
    given_up = Settlement(deleting.id, "lease", EventState.DEAD_LETTER, later(minutes=2), results=results)
    assert await settle(event_log, given_up)
    assert await event_log.retry_dead_letters(None, now=later(minutes=2)) == 1
    await store(event_log, "a-1", at=20, occurred_at=later(seconds=5), type="alias", previous_hash="lead")
    claimed = await claim(event_log) | await claim(event_log)
    assert {name: event.suppressed for name, event in claimed.items()} == {"d-1": False, "a-1": True}


async def test_an_older_deletion_still_waits_when_a_newer_one_of_the_same_person_comes(
    event_log: StoredEventLog,
) -> None:
    await store(event_log, "e-1")
    working = await claim(event_log)
    await store(event_log, "d-1", at=10, type="delete")
    await store(event_log, "e-2", at=20)
    await store(event_log, "d-2", at=30, type="delete")
    assert {name: event.suppressed for name, event in (await claim(event_log)).items()} == {"e-2": True}
    assert await settle(event_log, ended(working["e-1"]))
    deleting = await claim(event_log, now=later(minutes=4))
    assert sorted(deleting) == ["d-1", "d-2", "e-2"]
    reports = [await erase(event_log, ended(deleting[name])) for name in ("d-1", "d-2")]
    assert [report and report.events for report in reports] == [1, 3]


async def test_what_happened_after_a_deletion_merges_nobody_into_it(event_log: StoredEventLog) -> None:
    await store(event_log, "e-1", person_hash="lead")
    await store(event_log, "e-2", person_hash=None, device_hash="phone")
    await store(event_log, "d-1", at=10, type="delete")
    await store(event_log, "a-1", at=20, type="alias", previous_hash="lead")
    await store(event_log, "e-3", at=20, device_hash="phone")
    claimed = await claim(event_log)
    assert [name for name, event in claimed.items() if event.suppressed] == []
    assert await erase(event_log, ended(claimed["d-1"])) is not None
    kept = [await is_there(event_log, message_id) for message_id in ("e-1", "e-2", "a-1", "e-3")]
    assert kept == [True] * 4


async def test_a_delete_waits_for_no_merge_that_is_a_deletion_itself(event_log: StoredEventLog) -> None:
    await store(event_log, "e-1", person_hash="lead")
    working = await claim(event_log)
    await store(event_log, "d-1", at=10, type="delete")
    assert await erase(event_log, ended((await claim(event_log))["d-1"])) is not None
    await store(event_log, "a-1", at=20, occurred_at=later(seconds=5), type="alias", previous_hash="lead")
    assert await claim(event_log) == {}, "the merge waits for the event"
    await store(event_log, "e-2", at=30)
    await store(event_log, "d-2", at=40, type="delete")
    covered = await claim(event_log)
    assert sorted(covered) == ["e-2"]
    assert await settle(event_log, ended(covered["e-2"], EventState.SUPPRESSED))
    assert await settle(event_log, ended(working["e-1"]))
    claimed = await claim(event_log)
    assert {name: event.suppressed for name, event in claimed.items()} == {"a-1": True, "d-2": False}


@pytest.mark.parametrize("of_many", [{"type": "delete"}, {"type": "alias", "previous_hash": "lead"}])
async def test_many_deletions_of_one_sender_do_not_hold_up_another(
    event_log: StoredEventLog, of_many: dict[str, Any]
) -> None:
    for number in range(50):
        await store(event_log, f"x-{number}", person_hash=f"person-{number}", **of_many)
    another: dict[str, Any] = {"scope": "install:ins_2", "key_id": "key_2", "install_id": "ins_2"}
    await store(event_log, "d-1", type="delete", person_hash="somebody", **another)
    now = later(minutes=2)
    claimed = await event_log.claim(COMPONENTS, limit=40, lease="lease", now=now, until=later(minutes=3))
    assert "install:ins_2" in {event.scope for event in claimed}


class _TwoProcesses:
    """Two processes that work on one PostgreSQL; one of them claims, and has not committed that yet."""

    def __init__(self, url: str) -> None:
        self.log = open_event_log(url)
        self.database = Database.open(url)

    async def close(self) -> None:
        await self.log.close()
        await self.database.close()


@pytest.fixture
async def both(postgresql_url: str) -> AsyncIterator[_TwoProcesses]:
    """A log on PostgreSQL, and the database of another process."""
    both = _TwoProcesses(postgresql_url)
    yield both
    await both.close()


@pytest.mark.parametrize("held", ["e-1", "d-1"])
async def test_nothing_is_decided_while_another_process_is_about_to_change_it(both: _TwoProcesses, held: str) -> None:
    """A delete that sees no lease yet is not begun, and a merge that sees no beginning yet is not handed over."""
    log, now = both.log, later(minutes=2)
    await store(log, "e-1", person_hash="person-1" if held == "e-1" else "lead")
    other, until = "other process", now + timedelta(minutes=1)
    if held == "d-1":
        assert await settle(log, ended((await claim(log))["e-1"]))
        await store(log, "d-1", at=10, type="delete")
    async with both.database.engine.begin() as connection:
        first, _ = await claiming.claim(connection, COMPONENTS, limit=9, lease=other, now=now, until=until)
        assert len(first) == 1
        if held == "e-1":
            await store(log, "d-1", at=10, type="delete")
        else:
            await store(log, "a-1", at=20, occurred_at=later(seconds=5), type="alias", previous_hash="lead")
        assert await claim(log) == {}
    if held == "e-1":
        assert await claim(log) == {}
        assert await settle(log, Settlement(first[0].id, other, EventState.HANDLED, now))
        assert sorted(await claim(log)) == ["d-1"]
    else:
        assert (await claim(log))["a-1"].suppressed


async def test_what_is_stored_while_a_deletion_begins_is_seen_to_be_covered(both: _TwoProcesses) -> None:
    """The other process finds one more id of the person, and has not committed that yet."""
    log, now = both.log, later(minutes=2)
    await store(log, "d-1", at=10, type="delete")
    await store(log, "a-1", at=20, occurred_at=later(seconds=5), type="alias", previous_hash="lead")
    assert await settle(log, ended((await claim(log))["a-1"]))
    async with both.database.engine.begin() as connection:
        begun, _ = await claiming.claim(
            connection, COMPONENTS, limit=9, lease="other process", now=now, until=now + timedelta(minutes=1)
        )
        await store(log, "e-1", at=30, occurred_at=later(seconds=6), person_hash="lead")
        working = await claim(log)
    assert not begun or working["e-1"].suppressed
    assert await claim(log) == {}, "somebody works on an event of the other id"
    assert await settle(log, ended(working["e-1"]))
    assert sorted(await claim(log)) == ["d-1"]


async def test_an_older_event_that_is_taken_while_a_deletion_begins_is_waited_for(both: _TwoProcesses) -> None:
    """The other process has looked up which event is the oldest, when one before that is let go once more."""
    log, now = both.log, later(minutes=2)
    await store(log, "e-1")
    replayed = (await claim(log))["e-1"]
    assert await settle(log, ended(replayed))
    await store(log, "e-2", person_hash="somebody")

    async def meanwhile() -> None:
        assert await log.revive([replayed.id], handler=None, now=now) == 1
        assert not (await claim(log))["e-1"].suppressed
        await store(log, "d-1", at=10, type="delete")

    async with both.database.engine.begin() as connection:
        between = cast(AsyncConnection, _Between(connection, meanwhile))
        begun, _ = await claiming.claim(
            between, COMPONENTS, limit=9, lease="other process", now=now, until=now + timedelta(minutes=1)
        )
    assert begun == []


async def test_what_is_held_with_a_deletion_stays_held_while_the_person_is_wiped(both: _TwoProcesses) -> None:
    log, now = both.log, later(minutes=2)
    await store(log, "e-0")
    handled = (await claim(log))["e-0"]
    assert await settle(log, ended(handled))
    await store(log, "e-1", person_hash="somebody")
    await store(log, "d-1", at=10, type="delete")
    held = await claim(log)
    async with both.database.engine.begin() as connection:
        assert await deletion.erase(connection, held["d-1"].id, "lease", [handled.id], now=now)
        await log.renew("lease", [event.id for event in held.values()], until=later(minutes=9))
        assert await claim(log, lease="other", now=later(minutes=8)) == {}


async def test_a_person_is_wiped_in_portions(both: _TwoProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever needs an event of a portion that is wiped need not wait for the others."""
    monkeypatch.setattr(sql, "_ERASED_AT_ONCE", 2)
    log, names = both.log, [f"e-{number}" for number in range(5)]
    for name in names:
        await store(log, name)
    await store(log, "d-1", at=10, type="delete")
    delete = (await claim(log))["d-1"]
    async with both.database.engine.begin() as connection:
        (last,) = await log.show("e-4")
        await connection.exec_driver_sql(f"SELECT FROM events WHERE id = {last.record.id} FOR UPDATE")
        wiping = asyncio.create_task(log.erase(delete.id, delete.lease, now=later(minutes=2)))
        async with asyncio.timeout(20):
            while await is_there(log, "e-3"):  # noqa: ASYNC110  it is in the database
                await asyncio.sleep(0.01)
        assert [await is_there(log, name) for name in names] == [False] * 4 + [True]
    report = await wiping
    assert report is not None
    assert (report.events, await is_there(log, "e-4")) == (5, False)


async def test_a_wipe_ends_when_somebody_else_takes_the_deletion_over(
    both: _TwoProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "_ERASED_AT_ONCE", 1)
    log = both.log
    for number in range(2):
        await store(log, f"e-{number}")
    await store(log, "d-1", at=10, type="delete")
    delete = (await claim(log))["d-1"]
    wipe = deletion.erase

    async def wipe_slowly(*arguments: Any, **options: Any) -> bool:
        is_held = await wipe(*arguments, **options)
        monkeypatch.setattr(deletion, "erase", wipe)
        await log.release(delete.lease, [delete.id])
        return is_held

    monkeypatch.setattr(deletion, "erase", wipe_slowly)
    assert await log.erase(delete.id, delete.lease, now=later(minutes=2)) is None
    assert [await is_there(log, name) for name in ("e-0", "e-1", "d-1")] == [False, True, True]


class _Between:
    """A connection after whose first statement something else happens."""

    def __init__(self, connection: AsyncConnection, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._connection = connection
        self._meanwhile: Callable[[], Awaitable[None]] | None = meanwhile

    async def execute(self, *arguments: Any) -> object:
        result = await self._connection.execute(*arguments)
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return result
