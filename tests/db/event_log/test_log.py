"""The event log keeps what it was given, once, and gives each event to one worker at a time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.records import EventFilter, EventLogUnavailable, HandlerResult, Settlement
from enable_with_segment.db.event_log.states import EventState, HandlerState
from tests.db.event_log.events import COMPONENTS, NOON, erase, later, new_event, settle


async def _claim(log: StoredEventLog, lease: str = "a", *, minutes: float = 0, limit: int = 10) -> list[int]:
    now = later(minutes=minutes)
    claimed = await log.claim(COMPONENTS, limit=limit, lease=lease, now=now, until=now + timedelta(minutes=1))
    return [event.id for event in claimed]


async def test_an_event_comes_back_byte_for_byte(event_log: StoredEventLog) -> None:
    body = '{ "type":"track", "x": 1.0, "é": "\\u0000" }'.encode()
    appended = await event_log.append(new_event(body=body, settings={"region": "eu", "odd": "\x00"}))
    (event,) = await event_log.claim(COMPONENTS, limit=10, lease="a", now=NOON, until=later(minutes=1))
    assert event.id == appended.event_id
    assert event.body == body
    assert event.settings == {"region": "eu", "odd": "\x00"}
    assert event.received_at == NOON


async def test_the_same_message_is_stored_once_and_counted(event_log: StoredEventLog) -> None:
    together = await asyncio.gather(*(event_log.append(new_event()) for _ in range(5)))
    again = await event_log.append(new_event(body=b'{"type":"identify","userId":"u-2"}'))
    elsewhere = await event_log.append(new_event(scope="install:ins_2"))
    assert sorted(answer.duplicate for answer in together) == [False, True, True, True, True]
    assert again.duplicate
    assert not elsewhere.duplicate
    (record,) = [record for record in await event_log.find(EventFilter()) if record.id == together[0].event_id]
    assert (record.duplicates, record.differing_duplicates) == (5, 1)


@pytest.mark.parametrize("with_delete", [False, True])
async def test_a_duplicate_with_another_body_is_told_from_the_others(
    event_log: StoredEventLog, with_delete: bool
) -> None:
    """In one group with its original or after it, in whatever order; a delete in the group takes another way."""
    other, resent = b'{"type":"identify","userId":"u-2"}', b'{"userId":"u-1","type":"identify","sentAt":"later"}'
    group = [new_event("z"), new_event("a"), new_event("z", body=other), new_event("a"), new_event("b")]
    if with_delete:
        group.append(new_event("d", type="delete", person_hash="person-2"))
    for _ in range(2):
        answers = await asyncio.gather(*(event_log.append(event) for event in group))
        assert [answer.differs for answer in answers[:5]] == [False, False, True, False, False]
    assert not (await event_log.append(new_event("a", body=resent))).differs
    assert not (await event_log.append(new_event("a", body=other, replay=True))).differs
    differing = {record.message_id: record.differing_duplicates for record in await event_log.find(EventFilter())}
    assert (differing["z"], differing["a"], differing["b"]) == (2, 0, 0)


async def test_a_claimed_event_is_nobody_elses_until_its_lease_ends(event_log: StoredEventLog) -> None:
    await event_log.append(new_event())
    assert len(await _claim(event_log, "a")) == 1
    assert await _claim(event_log, "b") == []
    assert len(await _claim(event_log, "b", minutes=2)) == 1


async def test_a_settlement_under_a_lost_lease_changes_nothing(event_log: StoredEventLog) -> None:
    await event_log.append(new_event())
    (event_id,) = await _claim(event_log, "a")
    await _claim(event_log, "b", minutes=2)
    late = Settlement(event_id, "a", EventState.HANDLED, later(minutes=2))
    assert not await settle(event_log, late)
    assert await settle(event_log, Settlement(event_id, "b", EventState.DEAD_LETTER, later(minutes=2), error="broken"))
    (record,) = await event_log.find(EventFilter(state=EventState.DEAD_LETTER))
    assert (record.last_error, record.attempts) == ("broken", 1)


async def test_a_lease_can_be_renewed_and_given_back(event_log: StoredEventLog) -> None:
    await event_log.append(new_event())
    (event_id,) = await _claim(event_log, "a")
    await event_log.renew("a", [event_id], until=later(minutes=5))
    assert await _claim(event_log, "b", minutes=2) == []
    await event_log.release("a", [event_id])
    assert await _claim(event_log, "b", minutes=2) == [event_id]


async def test_a_retry_calls_only_the_handler_that_failed(event_log: StoredEventLog) -> None:
    await event_log.append(new_event())
    (event_id,) = await _claim(event_log, "a")
    results = (HandlerResult("good", HandlerState.DONE), HandlerResult("bad", HandlerState.RETRY, "down"))
    pending = Settlement(event_id, "a", EventState.PENDING, NOON, results, "down", available_at=later(minutes=3))
    assert await settle(event_log, pending)
    assert await _claim(event_log, "a", minutes=2) == []
    (event,) = await event_log.claim(COMPONENTS, limit=1, lease="a", now=later(minutes=3), until=later(minutes=4))
    assert event.attempts == 1
    assert [result.handler for result in event.finished] == ["good"]


async def test_claims_of_several_workers_never_overlap(event_log: StoredEventLog) -> None:
    await asyncio.gather(*(event_log.append(new_event(f"m-{number}")) for number in range(40)))
    claims = await asyncio.gather(*(_claim(event_log, f"worker {number}", limit=10) for number in range(4)))
    taken = [event_id for claim in claims for event_id in claim]
    assert len(taken) == len(set(taken)) == 40


async def test_a_delete_waits_for_work_on_the_person_and_suppresses_the_rest(event_log: StoredEventLog) -> None:
    await event_log.append(new_event("before"))
    (running,) = await _claim(event_log, "a")
    await event_log.append(new_event("gone", type="delete", occurred_at=later(seconds=1), received_at=later(seconds=2)))
    await event_log.append(new_event("late"))
    await event_log.append(new_event("newer", occurred_at=later(hours=1)))
    claimed = await event_log.claim(COMPONENTS, limit=10, lease="b", now=later(seconds=3), until=later(minutes=1))
    assert [event.suppressed for event in claimed] == [True, False]
    await settle(event_log, Settlement(claimed[0].id, "b", EventState.SUPPRESSED, later(seconds=4)))
    assert await _claim(event_log, "c") == []
    await settle(event_log, Settlement(running, "a", EventState.HANDLED, later(seconds=4)))
    (delete,) = await event_log.claim(COMPONENTS, limit=10, lease="c", now=later(seconds=5), until=later(minutes=1))
    report = await erase(event_log, Settlement(delete.id, "c", EventState.HANDLED, later(seconds=6)))
    assert report is not None
    assert (report.merged_ids, report.events) == (0, 2)
    bodies = {record.message_id: record.erased for record in await event_log.find(EventFilter())}
    assert bodies == {"before": True, "gone": True, "late": True, "newer": False}


async def test_an_operator_can_look_prove_and_retry(event_log: StoredEventLog) -> None:
    await event_log.append(new_event("m-1"))
    await event_log.append(new_event("m-2", type="track", event="Order Completed"))
    first, second = await _claim(event_log, "a")
    results = (HandlerResult("store", HandlerState.FAILED, "no e-mail"), HandlerResult("count", HandlerState.DONE))
    await settle(event_log, Settlement(first, "a", EventState.DEAD_LETTER, NOON, results, "no e-mail"))
    await settle(event_log, Settlement(second, "a", EventState.HANDLED, NOON))

    proof = await event_log.prove(["m-1", "m-2", "m-3", "m-3"])
    assert (proof.checked, proof.missing, proof.unhandled) == (3, ("m-3",), ("m-1",))
    (detail,) = await event_log.show("m-1")
    assert {handler.handler: handler.error for handler in detail.handlers} == {"store": "no e-mail", "count": None}
    assert [record.message_id for record in await event_log.tail(first, EventFilter())] == ["m-2"]

    assert await event_log.retry_dead_letters([second], now=NOON) == 0
    assert await event_log.retry_dead_letters(None, now=NOON) == 1
    counts = await event_log.counts(NOON)
    assert (counts.by_state, counts.due, counts.total) == ({EventState.PENDING: 1, EventState.HANDLED: 1}, 1, 2)
    (event,) = await event_log.claim(COMPONENTS, limit=10, lease="b", now=NOON, until=later(minutes=1))
    assert [result.handler for result in event.finished] == ["count"]


async def test_pending_events_are_counted_no_further_than_needed(event_log: StoredEventLog) -> None:
    assert await event_log.count_pending(10) == 0
    for number in range(5):
        await event_log.append(new_event(dedupe_key=number.to_bytes(16)))
    assert [await event_log.count_pending(most) for most in (1, 5, 1_000)] == [1, 5, 5]
    (event_id,) = await _claim(event_log, limit=1)
    assert await event_log.count_pending(10) == 5, "what is being worked on is not handled yet"
    assert await settle(event_log, Settlement(event_id, "a", EventState.DEAD_LETTER, NOON))
    assert await event_log.count_pending(10) == 4
    assert await event_log.retry_dead_letters(None, now=NOON) == 1
    assert await event_log.count_pending(10) == 5


async def test_one_event_the_store_refuses_does_not_take_its_neighbours_along(event_log: StoredEventLog) -> None:
    refused = new_event("refused", account=None)
    answers = await asyncio.gather(
        *(event_log.append(event) for event in (new_event("a"), refused, new_event("b"))), return_exceptions=True
    )
    assert isinstance(answers[1], EventLogUnavailable)
    assert [record.message_id for record in await event_log.tail(0, EventFilter())] == ["a", "b"]


async def test_two_messages_of_a_deletion_in_one_group_after_a_merge(event_log: StoredEventLog) -> None:
    """Late events of merged ids are covered; the delete waits for the alias; a second delete is no second job."""
    await event_log.append(
        new_event("alias", type="alias", person_hash="person-1", previous_hash="lead-1", device_hash="device-1")
    )
    together = [
        new_event("delete-1", type="delete", occurred_at=later(hours=2)),  # a clock that runs ahead
        new_event("delete-2", type="delete", scope="install:ins_2"),
    ]
    await asyncio.gather(*(event_log.append(event) for event in together))
    await event_log.append(new_event("lead", person_hash="lead-1"))
    await event_log.append(new_event("device", person_hash=None, device_hash="device-1"))
    await event_log.append(new_event("after", occurred_at=later(minutes=1), received_at=later(minutes=1)))
    await event_log.append(new_event("elsewhere", account="globex"))
    claimed = await event_log.claim(COMPONENTS, limit=20, lease="a", now=later(minutes=2), until=later(minutes=3))
    suppressed = {event.id: event.suppressed for event in claimed}
    names = {record.id: record.message_id for record in await event_log.find(EventFilter())}
    assert {names[event_id]: value for event_id, value in suppressed.items()} == {
        "alias": False,
        "lead": True,
        "device": True,
        "after": False,
        "elsewhere": False,
    }
    (repeated,) = await event_log.find(EventFilter(state=EventState.REPEATED_DELETE))
    assert (repeated.message_id, repeated.erased) == ("delete-2", True)
