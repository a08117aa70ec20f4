"""Several deletions of one person at the same time: each has its own work, and together they leave nothing."""

from __future__ import annotations

from dataclasses import replace

from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.records import EventDetail
from enable_with_segment.db.event_log.states import EventState
from tests.db.event_log.claims import claim, ended
from tests.db.event_log.events import erase, later, new_event, settle


async def detail_of(log: StoredEventLog, message_id: str) -> EventDetail:
    (detail,) = await log.show(message_id)
    return detail


async def test_a_deletion_does_not_take_another_one_or_a_merge_out_of_its_handlers_hands(
    event_log: StoredEventLog,
) -> None:
    await event_log.append(
        new_event("d-1", type="delete", received_at=later(seconds=20), occurred_at=later(seconds=20))
    )
    await event_log.append(new_event("e-1", received_at=later(seconds=30), occurred_at=later(seconds=30)))
    # Another source's message of an earlier time, after something newer: a deletion of its own.
    await event_log.append(
        new_event("d-2", type="delete", received_at=later(seconds=40), occurred_at=later(seconds=10))
    )
    claimed = await claim(event_log)
    await event_log.append(
        new_event(
            "a-1", type="alias", previous_hash="lead", received_at=later(seconds=50), occurred_at=later(seconds=10)
        )
    )
    assert await erase(event_log, ended(claimed["d-1"])) is not None
    for message_id in ("d-2", "a-1"):
        detail = await detail_of(event_log, message_id)
        assert (detail.record.state, detail.body is None) == (EventState.PENDING, False)
    assert await erase(event_log, ended(claimed["d-2"])) is not None
    deletion = await event_log.deletion_of(claimed["d-2"].id)
    assert deletion is not None
    assert deletion.completed
    merge = (await claim(event_log))["a-1"]
    assert merge.suppressed  # it came too late for the person's deletion and is one of the other id


async def test_a_deletion_reaches_as_far_as_its_last_message_says(event_log: StoredEventLog) -> None:
    await event_log.append(new_event("d-1", type="delete"))
    await event_log.append(new_event("d-2", type="delete", received_at=later(minutes=1), occurred_at=later(minutes=1)))
    assert (await detail_of(event_log, "d-2")).record.state is EventState.REPEATED_DELETE
    then = {"received_at": later(minutes=1), "occurred_at": later(seconds=30), "device_hash": "phone"}
    await event_log.append(new_event("e-1", person_hash=None, **then))
    await event_log.append(new_event("e-2", **then))  # tells whose device it is
    claimed = await claim(event_log)
    assert claimed["e-2"].suppressed
    for message_id in ("e-1", "e-2"):
        assert await settle(event_log, ended(claimed[message_id]))
    claimed |= await claim(event_log)
    assert await erase(event_log, ended(claimed["d-1"])) is not None
    assert (await detail_of(event_log, "e-1")).body is None


async def test_a_message_of_the_same_deletion_reaches_no_further_than_the_ids_it_is_about(
    event_log: StoredEventLog,
) -> None:
    await event_log.append(new_event("a-1", type="alias", previous_hash="lead"))
    assert await settle(event_log, ended((await claim(event_log))["a-1"]))
    await event_log.append(new_event("e-1", received_at=later(seconds=20), occurred_at=later(seconds=20)))
    await event_log.append(new_event("d-1", type="delete", received_at=later(seconds=30)))
    then = {"received_at": later(seconds=40), "occurred_at": later(seconds=40)}
    await event_log.append(new_event("d-2", type="delete", person_hash="lead", **then))
    assert (await detail_of(event_log, "d-2")).record.state is EventState.REPEATED_DELETE
    await event_log.append(
        new_event("e-2", person_hash="lead", received_at=later(seconds=50), occurred_at=later(seconds=35))
    )
    claimed = await claim(event_log)
    assert {name: event.suppressed for name, event in claimed.items()} == {"e-1": False, "e-2": True, "d-1": False}
    assert await settle(event_log, ended(claimed["e-1"]))
    assert await erase(event_log, ended(claimed["d-1"])) is not None
    assert [(await detail_of(event_log, name)).body is None for name in ("a-1", "e-1", "e-2")] == [True, False, True]


async def test_the_work_of_a_repeated_delete_stays_that_of_the_deletion_it_repeats(event_log: StoredEventLog) -> None:
    await event_log.append(new_event("d-1", type="delete"))
    again = await event_log.append(new_event("d-2", type="delete", received_at=later(seconds=10)))
    assert again.event_id is not None
    assert await erase(event_log, ended((await claim(event_log))["d-1"])) is not None
    then = {"received_at": later(seconds=20), "occurred_at": later(seconds=20)}
    await event_log.append(new_event("e-1", **then))
    await event_log.append(new_event("d-3", type="delete", **then))
    work = await event_log.deletion_of(again.event_id)
    assert work is not None
    assert work.detail is not None
    assert (work.detail.record.message_id, work.completed) == ("d-1", True)


async def test_the_work_of_a_repeated_delete_is_done_by_the_next_one_when_the_first_was_given_up(
    event_log: StoredEventLog,
) -> None:
    await event_log.append(new_event("d-1", type="delete"))
    again = await event_log.append(new_event("d-2", type="delete", received_at=later(seconds=10)))
    assert again.event_id is not None
    given_up = replace(ended((await claim(event_log))["d-1"]), state=EventState.DEAD_LETTER)
    assert await settle(event_log, given_up)
    await event_log.append(new_event("d-3", type="delete", received_at=later(seconds=20)))
    work = await event_log.deletion_of(again.event_id)
    assert work is not None
    assert work.detail is not None
    assert (work.detail.record.message_id, work.completed) == ("d-3", False)
