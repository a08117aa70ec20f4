"""Batches of signed events (contract 5.12): each element is judged by itself, and none of them is lost."""

from __future__ import annotations

from typing import Any

import pytest

from enable_with_segment.db.event_log.records import Appended, EventLogUnavailable, NewEvent
from enable_with_segment.db.event_log.states import EventState
from tests.subscriptions.answers import message
from tests.subscriptions.receiver import Open, Receiver, Recorder
from tests.subscriptions.signed_sender import TRACK, Sender, encode

BAD_ELEMENTS: list[tuple[str, str]] = [
    ('{"event":"No type","userId":"u-1","messageId":"bad-1"}', "no 'type'"),
    ('{"type":"track","userId":"u-1"}', "needs its name"),
    ('{"type":"identify"}', "neither 'userId'"),
    ('"text"', "one JSON object"),
    ("null", "one JSON object"),
    ("nan", "cannot be read"),
    ('{"type":"identify","userId":"u-1","userId":"u-2"}', "cannot be read"),
    ("[" * 500 + "]" * 500, "cannot be read"),
    ('{"type":"delete","messageId":"bad-2"}', "needs a 'userId'"),
]


@pytest.mark.parametrize(("element", "reason"), BAD_ELEMENTS, ids=[reason for _, reason in BAD_ELEMENTS])
async def test_case_112_a_bad_element_is_recorded_and_spoils_nothing(
    sender: Sender, recorder: Recorder, element: str, reason: str
) -> None:
    body = f"[{encode(TRACK).decode()},{element}]".encode()
    response = await sender.send(body)
    assert response.status_code == 202
    assert "Accepted 1 of 2" in message(response)
    await sender.receiver.dispatcher.run_due()
    assert [event.message_id for event in recorder.events] == ["m-0001"]
    bad = await sender.receiver.only(state=EventState.DEAD_LETTER)
    assert bad.type == "invalid"
    assert reason in str(bad.last_error)
    assert bad.message_id is not None
    (kept,) = await sender.receiver.log.show(bad.message_id)
    assert kept.body == element.encode()
    # When the batch comes again, nothing is stored twice, the bad one included.
    assert (await sender.send(body)).status_code == 202
    assert len(await sender.receiver.records()) == 2


async def test_case_112_an_element_nobody_handles_is_recorded_too(on_sqlite: Open) -> None:
    only_track = Recorder(types=("track",))
    async with on_sqlite(only_track.subscription) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        assert (await sender.send([TRACK, {"type": "page", "userId": "u-1"}])).status_code == 202
        await receiver.dispatcher.run_due()
        assert {record.type: record.state for record in await receiver.records()} == {
            "track": EventState.HANDLED,
            "page": EventState.UNSUPPORTED,
        }
        # A single one is told, so that the customer's debugger shows it.
        assert (await sender.send({"type": "page", "userId": "u-1"})).status_code == 501


async def test_a_deletion_covers_bad_elements_that_name_the_person(sender: Sender) -> None:
    bad = {"type": "track", "userId": "u-881", "messageId": "bad", "timestamp": "2026-03-01T00:00:00Z"}
    await sender.send([TRACK, bad])
    await sender.receiver.dispatcher.run_due()
    assert (await sender.send({"type": "delete", "userId": "u-881", "messageId": "d-1"})).status_code == 202
    await sender.receiver.dispatcher.run_due()
    (kept,) = await sender.receiver.log.show("bad")
    assert kept.body is None


async def test_a_batch_of_four_thousand_is_accepted_and_a_longer_one_refused_whole(sender: Sender) -> None:
    batch: list[dict[str, Any]] = [{**TRACK, "messageId": f"m-{number}"} for number in range(4_000)]
    response = await sender.send(batch)
    assert response.status_code == 202
    assert message(response) == "Accepted 4000 events."
    assert (await sender.receiver.log.counts(sender.receiver.clock())).total == 4_000
    response = await sender.send([*batch, {**TRACK, "messageId": "m-4000"}])
    assert response.status_code == 413
    assert (await sender.receiver.log.counts(sender.receiver.clock())).total == 4_000


async def test_an_empty_batch_is_accepted_and_stores_nothing(sender: Sender) -> None:
    assert message(await sender.send([])) == "Accepted 0 events."
    assert await sender.receiver.records() == []


async def test_a_batch_that_was_stored_in_part_is_complete_after_the_retry(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, stored = sender.receiver.log.append, list[Appended]()

    async def fail_late(event: NewEvent) -> Appended:
        if len(stored) >= 250:
            raise EventLogUnavailable("the disk is full")
        stored.append(await append(event))
        return stored[-1]

    batch = [{**TRACK, "messageId": f"m-{number}"} for number in range(500)]
    with monkeypatch.context() as failing:
        failing.setattr(sender.receiver.log, "append", fail_late)
        assert (await sender.send(batch)).status_code == 503
    assert 0 < len(await sender.receiver.records()) < 500
    assert (await sender.send(batch)).status_code == 202
    found = await sender.receiver.records()
    assert sorted(str(record.message_id) for record in found) == sorted(f"m-{number}" for number in range(500))


async def test_bad_elements_of_every_kind_are_stored_on_both_engines(stored_receiver: Receiver) -> None:
    sender = Sender(stored_receiver, *await stored_receiver.mint_signed())
    bad = [
        *(element.encode() for element, _ in BAD_ELEMENTS),
        b'{"messageId":"nul\\u0000inside","userId":"u\\u0000"}',
        b'{"messageId":"' + b"x" * 5_000 + b'"}',
        b'"\xff\xfe"',
        b'{"a":"\\ud800"}',
    ]
    body = b"[" + b",".join([encode(TRACK), *bad]) + b"]"
    assert (await sender.send(body)).status_code == 202
    await stored_receiver.dispatcher.run_due()
    found = await stored_receiver.records()
    assert [record.state for record in found].count(EventState.DEAD_LETTER) == len(bad)
    assert [record.state for record in found].count(EventState.HANDLED) == 1
    assert all(record.last_error for record in found if record.state is EventState.DEAD_LETTER)
