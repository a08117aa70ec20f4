"""What the dispatcher asks of a log: events in turns, in order, again, and what became of attempts without a result."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.postgresql import claiming
from enable_with_segment.db.event_log.records import ClaimedEvent, EventFilter, HandlerResult, Settlement
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.db.event_log.states import EventState, HandlerState
from tests.db.event_log.events import COMPONENTS, NOON, erase, later, new_event, settle


async def _claim(log: StoredEventLog, *, minutes: float = 0, limit: int = 10, **options: Any) -> list[ClaimedEvent]:
    now = later(minutes=minutes)
    until = now + timedelta(minutes=1)
    return await log.claim(COMPONENTS, limit=limit, lease=f"at {minutes}", now=now, until=until, **options)


async def test_senders_are_served_in_turns_however_much_one_has_waiting(event_log: StoredEventLog) -> None:
    for number in range(40):
        await event_log.append(new_event(f"noisy {number}", scope="install:noisy"))
    for scope in ("install:a", "install:b"):
        for number in range(3):
            await event_log.append(new_event(f"{scope} {number}", scope=scope))
    first = await _claim(event_log, limit=9)
    assert sorted(event.scope for event in first) == sorted(["install:a", "install:b", "install:noisy"] * 3)
    assert [event.scope for event in await _claim(event_log, limit=5)] == ["install:noisy"] * 5
    assert await _claim(event_log, skip=["install:noisy"]) == []


async def test_a_turn_comes_round_when_there_are_more_senders_than_places(event_log: StoredEventLog) -> None:
    for sender in range(6):
        await event_log.append(new_event(f"m {sender}", scope=f"install:{sender}"))
    seen = [event.scope for _ in range(3) for event in await _claim(event_log, limit=2)]
    assert sorted(seen) == [f"install:{sender}" for sender in range(6)]


async def test_what_some_senders_leave_of_their_turns_is_shared_by_the_others(postgresql_url: str) -> None:
    log = open_event_log(postgresql_url)
    for sender, waiting in enumerate((40, 1, 9, 2, 4)):
        await asyncio.gather(
            *(log.append(new_event(f"{sender} {n}", scope=f"install:{sender}")) for n in range(waiting))
        )
    claimed = Counter(event.scope for event in await _claim(log, limit=23))
    assert [claimed[f"install:{sender}"] for sender in range(5)] == [8, 1, 8, 2, 4]
    assert len(await _claim(log, limit=100)) == 56 - 23, "and all of it when there is room"
    await log.close()


async def test_many_senders_with_much_to_do_are_not_all_locked(postgresql_url: str) -> None:
    log, database = open_event_log(postgresql_url), Database.open(postgresql_url)
    for sender in range(8):
        await asyncio.gather(*(log.append(new_event(f"{sender} {n}", scope=f"install:{sender}")) for n in range(20)))
    async with database.engine.begin() as connection:
        claimed, _ = await claiming.claim(connection, COMPONENTS, limit=20, lease="a", now=NOON, until=later(minutes=1))
        async with database.engine.begin() as another:
            free = await another.exec_driver_sql("SELECT FROM events FOR UPDATE SKIP LOCKED")
    assert (len(claimed), free.rowcount) == (20, 8 * 20 - 24), "three of each sender were looked at"
    await database.close()
    await log.close()


async def test_an_event_that_is_put_back_keeps_its_count_and_its_results(event_log: StoredEventLog) -> None:
    await event_log.append(new_event())
    (event,) = await _claim(event_log)
    done = HandlerResult("good", HandlerState.DONE)
    due_at = later(minutes=9)
    retry = HandlerResult("bad", HandlerState.RETRY, "away", due_at)
    again = later(minutes=2)
    await settle(event_log, Settlement(event.id, event.lease, EventState.PENDING, NOON, (done, retry), None, again))
    (event,) = await _claim(event_log, minutes=2)
    assert (event.attempts, event.interrupted) == (1, False)
    assert event.finished == (done,)
    (unfinished,) = event.unfinished
    assert (unfinished.handler, unfinished.attempts, unfinished.due_at, unfinished.since) == ("bad", 1, due_at, NOON)
    await settle(
        event_log,
        Settlement(event.id, event.lease, EventState.PENDING, again, available_at=later(minutes=3), attempted=False),
    )
    (event,) = await _claim(event_log, minutes=3)
    assert event.attempts == 1
    assert event.unfinished == (unfinished,)


async def test_an_attempt_whose_lease_ended_had_no_result(event_log: StoredEventLog) -> None:
    await event_log.append(new_event())
    (first,) = await _claim(event_log)
    event_log.begin(first.lease, [first.id])
    (second,) = await _claim(event_log, minutes=2)
    await event_log.release(second.lease, [second.id])
    (third,) = await _claim(event_log, minutes=2)
    assert (first.interrupted, second.interrupted, third.interrupted) == (False, True, False)


async def test_what_handlers_did_can_be_noted_by_somebody_who_goes_on_with_the_event(
    event_log: StoredEventLog,
) -> None:
    await event_log.append(new_event())
    (event,) = await _claim(event_log)
    event_log.begin(event.lease, [event.id])
    done = HandlerResult("forget", HandlerState.DONE)
    noted = Settlement(event.id, event.lease, EventState.PENDING, NOON, (done,), keeps_lease=True)
    assert await settle(event_log, noted)
    assert not await settle(event_log, replace(noted, lease="somebody else's"))
    assert await _claim(event_log) == []
    await event_log.renew(event.lease, [event.id], until=later(minutes=5))
    assert await _claim(event_log, minutes=4) == []
    (again,) = await _claim(event_log, minutes=6)
    assert (again.attempts, again.finished) == (1, (done,))
    assert not await settle(event_log, Settlement(event.id, event.lease, EventState.HANDLED, NOON))
    assert await settle(event_log, Settlement(event.id, again.lease, EventState.HANDLED, NOON, attempted=False))
    (record,) = await event_log.find(EventFilter())
    assert (record.state, record.attempts) == (EventState.HANDLED, 1)


async def test_on_sqlite_a_claim_alone_is_no_attempt(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "events.db")
    for number in range(2):
        await log.append(new_event(f"m-{number}"))
    claimed, begun = await _claim(log)
    log.begin(begun.lease, [begun.id])
    log.begin("somebody else's", [claimed.id])
    for minutes in (2, 4):  # and nobody who only claims it makes that forgotten
        again = {event.id: event.interrupted for event in await _claim(log, minutes=minutes)}
        assert again == {claimed.id: False, begun.id: True}
    await log.close()
    log = SqliteEventLog(tmp_path / "events.db")
    again = {event.id: event.interrupted for event in await _claim(log, minutes=6)}
    assert again == {claimed.id: False, begun.id: True}
    await log.close()


async def test_attempts_without_a_result_are_counted_apart(event_log: StoredEventLog) -> None:
    """How long a handler has been failing is told from its results; what died before the first says nothing."""
    await event_log.append(new_event())
    seen = []
    for hours, state in enumerate(
        (HandlerState.UNKNOWN, HandlerState.UNKNOWN, HandlerState.RETRY, HandlerState.UNKNOWN, HandlerState.RETRY)
    ):
        at = later(hours=hours)
        (event,) = await _claim(event_log, minutes=60 * hours)
        seen += [(record.attempts, record.results, record.since) for record in event.unfinished]
        result = HandlerResult("h", state, "why", at)
        await settle(event_log, Settlement(event.id, event.lease, EventState.PENDING, at, (result,), available_at=at))
    (event,) = await _claim(event_log, minutes=300)
    seen += [(record.attempts, record.results, record.since) for record in event.unfinished]
    first = later(hours=2)
    assert seen == [(1, 0, None), (2, 0, None), (3, 1, first), (4, 1, first), (5, 2, first)]
    await settle(
        event_log, Settlement(event.id, event.lease, EventState.HANDLED, NOON, (HandlerResult("h", HandlerState.DONE),))
    )
    ((handler,),) = [detail.handlers for detail in await event_log.show("m-1")]
    assert (handler.attempts, handler.results, handler.since) == (6, 3, first)


async def test_a_log_that_is_opened_again_knows_what_was_being_worked_on(database_url: str) -> None:
    url = database_url.replace("control.db", "events.db")

    @asynccontextmanager
    async def opened() -> AsyncIterator[StoredEventLog]:
        log = open_event_log(url)
        try:
            yield log
        finally:
            await log.close()

    async with opened() as log:
        for number in range(4):
            await log.append(new_event(f"m-{number}"))
        claimed = await _claim(log)
        log.begin(claimed[0].lease, [event.id for event in claimed])
        await settle(log, Settlement(claimed[0].id, claimed[0].lease, EventState.HANDLED, NOON))
        await settle(
            log, Settlement(claimed[1].id, claimed[1].lease, EventState.PENDING, NOON, available_at=later(minutes=1))
        )
        await log.release(claimed[2].lease, [claimed[2].id])
    async with opened() as log:
        again = {event.id: event.interrupted for event in await _claim(log, minutes=2)}
        assert again == {claimed[1].id: False, claimed[2].id: False, claimed[3].id: True}


async def test_finished_events_are_revived_for_all_handlers_or_for_one(event_log: StoredEventLog) -> None:
    for number in range(3):
        await event_log.append(new_event(f"m-{number}"))
    results = (HandlerResult("a", HandlerState.DONE), HandlerResult("b", HandlerState.DONE))
    handled = await _claim(event_log, limit=2)
    for event in handled:
        await settle(event_log, Settlement(event.id, event.lease, EventState.HANDLED, NOON, results))
    first, second = (event.id for event in handled)
    assert await event_log.revive([first], handler=None, now=later(minutes=2)) == 1
    assert await event_log.revive([second, 3, 99], handler="b", now=later(minutes=2)) == 1
    again = {event.id: event for event in await _claim(event_log, minutes=2)}
    assert again[first].finished == ()
    assert [result.handler for result in again[second].finished] == ["a"]
    assert (again[second].attempts, again[second].unfinished) == (0, ())


async def test_an_event_that_is_revived_for_one_handler_keeps_what_the_others_made_of_it(
    event_log: StoredEventLog,
) -> None:
    await event_log.append(new_event())
    (event,) = await _claim(event_log)
    results = (
        HandlerResult("done", HandlerState.DONE),
        HandlerResult("failed", HandlerState.FAILED, "no price"),
        HandlerResult("gone", HandlerState.RETRY, "away", later(hours=1)),
        HandlerResult("wanted", HandlerState.FAILED, "no"),
    )
    await settle(event_log, Settlement(event.id, event.lease, EventState.DEAD_LETTER, NOON, results))
    others = {event.id: ["done", "failed", "gone", "new"]}
    assert await event_log.revive([event.id], handler="wanted", now=later(minutes=1), skipped=others) == 1
    (again,) = await _claim(event_log, minutes=2)
    assert {result.handler: (result.state, result.error) for result in again.finished} == {
        "done": (HandlerState.DONE, None),
        "failed": (HandlerState.FAILED, "no price"),
        "gone": (HandlerState.SKIPPED, None),
        "new": (HandlerState.SKIPPED, None),
    }
    assert again.unfinished == ()
    await settle(event_log, Settlement(again.id, again.lease, EventState.DEAD_LETTER, later(minutes=2)))
    assert await event_log.retry_dead_letters(None, now=later(minutes=3)) == 1
    (retried,) = await _claim(event_log, minutes=4)
    assert [result.handler for result in retried.finished] == ["done"]


async def test_a_delete_and_what_it_erased_are_never_revived(event_log: StoredEventLog) -> None:
    await event_log.append(new_event())
    (event,) = await _claim(event_log)
    await settle(event_log, Settlement(event.id, event.lease, EventState.HANDLED, NOON))
    delete = new_event("m-2", type="delete", occurred_at=later(minutes=1), received_at=later(minutes=1))
    await event_log.append(delete)
    (claimed,) = await _claim(event_log, minutes=1)
    await erase(event_log, Settlement(claimed.id, claimed.lease, EventState.HANDLED, later(minutes=1)))
    assert await event_log.revive([event.id, claimed.id], handler=None, now=later(minutes=2)) == 0


async def test_events_that_were_put_back_can_be_made_due(event_log: StoredEventLog) -> None:
    for number in range(3):
        await event_log.append(new_event(f"m-{number}"))
    for event in await _claim(event_log):
        await settle(
            event_log,
            Settlement(event.id, event.lease, EventState.PENDING, NOON, available_at=later(minutes=9), attempted=False),
        )
    assert await event_log.hasten("acme-crm", now=later(minutes=1), limit=2) == 2
    assert await event_log.hasten("acme-mail", now=later(minutes=1)) == 0
    assert len(await _claim(event_log, minutes=1)) == 2
    assert await event_log.hasten("acme-crm", now=later(minutes=1)) == 1


async def test_what_waits_for_a_clock_that_was_set_back_can_be_brought_forward(event_log: StoredEventLog) -> None:
    ahead, far = later(hours=1), later(hours=30)
    await asyncio.gather(*(event_log.append(new_event(f"m-{number}", received_at=ahead)) for number in range(1_003)))
    await event_log.append(new_event("elsewhere", component="acme-mail", received_at=ahead))
    retried, far_off, put_back = await _claim(event_log, minutes=60, limit=3)
    for event, at, attempted in ((retried, later(hours=2), True), (far_off, far, True), (put_back, far, False)):
        ended = Settlement(event.id, event.lease, EventState.PENDING, ahead, available_at=at, attempted=attempted)
        await settle(event_log, ended)
    assert await _claim(event_log) == []
    assert await event_log.bring_forward(COMPONENTS, now=NOON, attempted_from=later(hours=24)) == 1_002
    assert await event_log.bring_forward(COMPONENTS, now=NOON, attempted_from=later(hours=24)) == 0
    claimed = await _claim(event_log, limit=2_000)
    assert len(claimed) == 1_002
    assert {far_off.id, put_back.id} < {event.id for event in claimed}
    assert await event_log.bring_forward(COMPONENTS, now=NOON, attempted_from=NOON) == 1
    assert [event.id for event in await _claim(event_log)] == [retried.id]


async def test_an_event_is_not_held_until_a_clock_that_was_set_back_gets_there(event_log: StoredEventLog) -> None:
    for number in range(2):
        await event_log.append(new_event(f"m-{number}", received_at=later(hours=1)))
    dead, alive = await _claim(event_log, minutes=60)
    event_log.begin(dead.lease, [dead.id])
    await event_log.bring_forward(COMPONENTS, now=NOON, attempted_from=NOON)
    assert await _claim(event_log) == [], "whoever lives has the time to renew"
    await event_log.renew(alive.lease, [alive.id], until=later(minutes=5))
    (again,) = await _claim(event_log, minutes=2)
    assert (again.id, again.interrupted) == (dead.id, True)
    assert await settle(event_log, Settlement(alive.id, alive.lease, EventState.HANDLED, later(minutes=2)))


async def test_what_comes_before_an_event_is_the_persons_own_and_still_pending(event_log: StoredEventLog) -> None:
    ids: dict[str, int] = {}
    arrivals: dict[str, dict[str, Any]] = {
        "done": {},
        "waits": {"type": "track", "event": "Order Completed"},
        "other person": {"person_hash": "person-2"},
        "other sender": {"scope": "install:ins_2"},
        "device only": {"person_hash": None, "device_hash": "device-1"},
        "next": {},
        "last": {},
    }
    for name, changes in arrivals.items():
        ids[name] = (await event_log.append(new_event(name, **changes))).event_id or 0
    claimed = {event.id: event for event in await _claim(event_log)}
    done, waits = claimed[ids["done"]], claimed[ids["waits"]]
    await settle(event_log, Settlement(done.id, done.lease, EventState.HANDLED, NOON))
    results = (HandlerResult("a", HandlerState.DONE), HandlerResult("b", HandlerState.RETRY))
    pending = Settlement(waits.id, waits.lease, EventState.PENDING, NOON, results, None, later(minutes=9))
    await settle(event_log, pending)
    found = await event_log.predecessors([ids["waits"], ids["other person"], ids["next"], ids["last"]])
    assert set(found) == {ids["next"], ids["last"]}
    (earlier,) = found[ids["next"]]
    assert (earlier.id, earlier.type, earlier.event) == (ids["waits"], "track", "Order Completed")
    assert earlier.finished == {"a"}
    assert [predecessor.id for predecessor in found[ids["last"]]] == [ids["waits"], ids["next"]]


async def test_events_are_found_by_name_and_by_the_time_they_came(event_log: StoredEventLog) -> None:
    for minute in range(4):
        name = "Odd" if minute % 2 else "Even"
        event = new_event(f"m-{minute}", received_at=later(minutes=minute), type="track", event=name)
        await event_log.append(event)
    wanted = EventFilter(received_from=later(minutes=1), received_before=later(minutes=3))
    assert [record.message_id for record in await event_log.tail(0, wanted)] == ["m-1", "m-2"]
    assert [record.message_id for record in await event_log.find(EventFilter(event="Odd"))] == ["m-3", "m-1"]


async def test_one_result_that_cannot_be_stored_keeps_no_other_from_being_stored(event_log: StoredEventLog) -> None:
    for number in range(8):
        await event_log.append(new_event(f"m-{number}"))
    bad = HandlerResult("h", HandlerState.RETRY, "half of a surrogate pair: \ud800")
    ended = [
        Settlement(event.id, event.lease, EventState.HANDLED, NOON, (bad,) if place == 3 else ())
        for place, event in enumerate(await _claim(event_log))
    ]
    first, second, appended = await asyncio.gather(
        event_log.settle_all(ended[:5]), event_log.settle_all(ended[5:]), event_log.append(new_event("m-8"))
    )
    assert list(first) == [True, True, True, False, True]
    assert list(second) == [True, True, True]
    assert not appended.duplicate


async def test_people_who_were_merged_into_each_other_are_erased_at_the_same_moment(event_log: StoredEventLog) -> None:
    people = [f"person-{number}" for number in range(4)]
    for person, other in zip(people, [*people[1:], people[0]], strict=True):
        merge = new_event(f"merge {person}", type="alias", person_hash=person, previous_hash=other)
        await event_log.append(merge)
    merges = await event_log.claim(COMPONENTS, limit=9, lease="a", now=NOON, until=later(minutes=1))
    assert all(await event_log.settle_all([Settlement(merge.id, "a", EventState.HANDLED, NOON) for merge in merges]))
    for number, person in enumerate(people):
        await event_log.append(new_event(f"event {person}", person_hash=person, occurred_at=later(seconds=number)))
        at = later(seconds=number)
        delete = new_event(f"delete {person}", type="delete", person_hash=person, received_at=at, occurred_at=at)
        await event_log.append(delete)
    claimed = await event_log.claim(COMPONENTS, limit=9, lease="b", now=later(minutes=1), until=later(minutes=2))
    deletes = [event for event in claimed if event.type == "delete"]
    assert [event.suppressed for event in claimed if event.type != "delete"] == [True] * 4
    ended = [Settlement(delete.id, "b", EventState.HANDLED, NOON) for delete in deletes]
    # Each covers the events of all the others.
    reports = await asyncio.gather(*(erase(event_log, settlement) for settlement in ended))
    assert [report and report.merged_ids for report in reports] == [3, 3, 3, 3]
    assert {record.erased for record in await event_log.find(EventFilter())} == {True}


async def test_merges_of_people_into_each_other_that_come_too_late_are_deletions_of_their_own(
    event_log: StoredEventLog,
) -> None:
    people = [f"person-{number}" for number in range(4)]
    for person in people:
        await event_log.append(new_event(f"delete {person}", type="delete", person_hash=person))
    deletes = await event_log.claim(COMPONENTS, limit=9, lease="a", now=NOON, until=later(minutes=1))
    for person, other in zip(people, [*people[1:], people[0]], strict=True):
        merge = new_event(f"merge {person}", type="alias", person_hash=person, previous_hash=other)
        await event_log.append(merge)
    ended = [Settlement(delete.id, "a", EventState.HANDLED, NOON) for delete in deletes]
    reports = await asyncio.gather(*(erase(event_log, settlement) for settlement in ended))
    assert [report and (report.merged_ids, report.events) for report in reports] == [(0, 0)] * 4
    merges = await event_log.claim(COMPONENTS, limit=9, lease="b", now=NOON, until=later(minutes=1))
    assert [merge.suppressed for merge in merges] == [True] * 4
    ended = [Settlement(merge.id, "b", EventState.SUPPRESSED, NOON) for merge in merges]
    reports = await asyncio.gather(*(erase(event_log, settlement) for settlement in ended))
    assert [report and report.merged_ids for report in reports] == [3, 3, 3, 3]
    assert {record.erased for record in await event_log.find(EventFilter())} == {True}
