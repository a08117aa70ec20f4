"""Erasing a person: every handler and sink, every stored copy, and a receipt that names nobody."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from enable_with_segment import (
    Event,
    EventNotSupported,
    InstallContext,
    InvalidEventPayload,
    RetryError,
    Subscription,
    ValidationError,
)
from enable_with_segment.db.control import audit
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.event_log.records import Settlement
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.subscriptions.archive.erasure import (
    ERASED,
    ErasureReceipt,
    delete_message,
    find_receipt,
)
from tests.db.event_log.events import NOON, SMALL, erase, new_event, settle
from tests.subscriptions.receiver import Open, open_receiver


class Shelf:
    """A sink that keeps what it gets, by person."""

    name = "shelf"
    batch = 100

    def __init__(self) -> None:
        self.kept: dict[str, list[str | None]] = {}

    async def write(self, events: Sequence[Event], install: InstallContext) -> None:
        assert install.account == "acme"
        for event in events:
            self.kept.setdefault(event.user_id or "", []).append(event.message_id)

    async def erase(self, events: Sequence[Event], install: InstallContext) -> None:
        assert install.account == "acme"
        for event in events:
            self.kept.pop(event.user_id or "", None)

    async def aclose(self) -> None:
        """Nothing is open."""


async def test_wh_15_a_delete_reaches_every_sink_and_dead_letter_and_leaves_a_receipt(
    database_url: str, encryption: EncryptionKeys
) -> None:
    subscription, shelf, product = Subscription("acme-crm"), Shelf(), {"karin", "zoe"}
    subscription.to(shelf, types=["track"])

    @subscription.on("identify")
    async def strict(event: Event) -> None:
        raise InvalidEventPayload(f"{event.user_id} has no name")

    @subscription.on("delete")
    async def forget(event: Event) -> None:
        product.discard(event.user_id or "")

    async with open_receiver(database_url, encryption, subscription) as receiver:
        for user in ("karin", "zoe"):
            track = {"type": "track", "userId": user, "event": "Step", "messageId": f"t-{user}"}
            await receiver.deliver(track)
            await receiver.deliver({"type": "identify", "userId": user, "messageId": f"i-{user}"})
        await receiver.dispatcher.run_due()
        assert len(await receiver.records(state=EventState.DEAD_LETTER)) == 2
        receiver.clock.advance(seconds=1)
        message = delete_message("karin", now=receiver.clock())
        await receiver.deliver(message)
        await receiver.dispatcher.run_due()

        assert (set(shelf.kept), product) == ({"zoe"}, {"zoe"})
        for message_id in ("t-karin", "i-karin", message["messageId"]):
            (detail,) = await receiver.log.show(message_id)
            assert (detail.body, detail.record.last_error) == (None, None)
            assert {outcome.error for outcome in detail.handlers} <= {None}
        (dead,) = await receiver.records(state=EventState.DEAD_LETTER)
        assert dead.message_id == "i-zoe"

        receipt = await find_receipt(receiver.log, receiver.database, message["messageId"])
        assert receipt is not None
        assert receipt.complete
        assert (receipt.stored_events, receipt.merged_ids) == (2, 0)
        assert receipt.handlers == dict.fromkeys(("shelf (delete)", "forget (delete)"), HandlerState.DONE)
        assert "karin" not in json.dumps(asdict(receipt), default=str)

        late = {"type": "track", "userId": "karin", "event": "Old", "messageId": "late", "timestamp": "2020-01-01"}
        await receiver.deliver(late)
        await receiver.dispatcher.run_due()
        assert set(shelf.kept) == {"zoe"}
        assert (await receiver.only(state=EventState.SUPPRESSED, message_id="late")).erased


async def test_wh_15_a_delete_that_no_handler_supports_erases_what_is_stored_here(opened: Open) -> None:
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def keep(event: Event) -> None:
        """Kept elsewhere."""

    @subscription.on("delete")
    async def refuse(event: Event) -> None:
        raise EventNotSupported("nothing is kept by person")

    async with opened(subscription) as receiver:
        await receiver.deliver({"type": "track", "userId": "karin", "event": "Step", "messageId": "t-1"})
        await receiver.dispatcher.run_due()
        receiver.clock.advance(seconds=1)
        await receiver.deliver({"type": "delete", "userId": "karin", "messageId": "d-1"})
        await receiver.dispatcher.run_due()
        for message_id in ("t-1", "d-1"):
            (detail,) = await receiver.log.show(message_id)
            assert (detail.body, detail.record.erased) == (None, True)
        receipt = await find_receipt(receiver.log, receiver.database, "d-1")
        assert receipt is not None
        assert (receipt.state, receipt.complete, receipt.stored_events) == (EventState.UNSUPPORTED, False, 1)

        receiver.clock.advance(minutes=1)
        await receiver.deliver({"type": "delete", "userId": "karin", "messageId": "d-2"})
        await receiver.dispatcher.run_due()
        again = await receiver.only(message_id="d-2")
        assert again.state is EventState.UNSUPPORTED, "the handlers are asked again"


async def test_wh_15_a_delete_that_was_given_up_outlives_one_that_no_handler_supports(opened: Open) -> None:
    subscription, product, problems = Subscription("acme-crm"), {"karin"}, list[Exception]()

    @subscription.on("delete")
    async def forget(event: Event) -> None:
        if problems:
            raise problems.pop()
        product.discard(event.user_id or "")

    async with opened(subscription) as receiver:
        for message_id, problem in (("d-1", ValidationError("a bug")), ("d-2", EventNotSupported("rolled back"))):
            problems.append(problem)
            await receiver.deliver({"type": "delete", "userId": "karin", "messageId": message_id})
            await receiver.dispatcher.run_due()
            receiver.clock.advance(minutes=1)
        states = [record.state for record in await receiver.records(type="delete")]
        assert states == [EventState.DEAD_LETTER, EventState.UNSUPPORTED]
        assert await receiver.log.retry_dead_letters(None, now=receiver.clock()) == 1
        await receiver.dispatcher.run_due()
        assert product == set()


async def test_the_receipt_of_a_repeated_delete_is_that_of_a_deletion_that_a_handler_did(opened: Open) -> None:
    subscription, problems = Subscription("acme-crm"), [EventNotSupported("not yet")]

    @subscription.on("delete")
    async def forget(event: Event) -> None:
        if problems:
            raise problems.pop()

    async with opened(subscription) as receiver:
        when = receiver.clock().isoformat()
        for number in range(3):
            receiver.clock.advance(seconds=1)
            delete = {"type": "delete", "userId": "karin", "messageId": f"d-{number}", "timestamp": when}
            await receiver.deliver(delete)
            await receiver.dispatcher.run_due()
        receipt = await find_receipt(receiver.log, receiver.database, "d-2")
        assert receipt is not None
        assert (receipt.state, receipt.complete, receipt.done_by) == (EventState.HANDLED, True, "d-1")


async def test_a_merge_after_the_deletion_erases_what_is_held_under_the_other_id(opened: Open) -> None:
    subscription, shelf, forgotten = Subscription("acme-crm"), Shelf(), list[tuple[str | None, datetime]]()
    subscription.to(shelf)
    fails = False

    @subscription.on("alias")
    async def merge(event: Event) -> None:
        raise InvalidEventPayload("it would bring the person back")

    @subscription.on("delete")
    async def forget(event: Event) -> None:
        if fails:
            raise RetryError("later")
        forgotten.append((event.user_id, event.timestamp))

    async with opened(subscription) as receiver:
        before = (receiver.clock() - timedelta(minutes=5)).isoformat()
        for user in ("lead-1", "karin"):
            await receiver.deliver({"type": "identify", "userId": user, "messageId": user, "timestamp": before})
        await receiver.deliver({"type": "delete", "userId": "karin", "messageId": "d-1"})
        await receiver.dispatcher.run_due()
        deleted_at = receiver.clock()
        receiver.clock.advance(hours=2)
        fails = True
        merged = {"type": "alias", "userId": "karin", "previousId": "lead-1", "messageId": "a-1", "timestamp": before}
        await receiver.deliver(merged)
        await receiver.dispatcher.run_due()
        assert (await receiver.only(message_id="a-1")).state is EventState.PENDING
        fails = False
        receiver.clock.advance(seconds=2)
        await receiver.dispatcher.run_due()
        assert forgotten == [("karin", deleted_at), ("lead-1", deleted_at)]
        assert shelf.kept == {}
        (detail,) = await receiver.log.show("a-1")
        assert (detail.record.state, detail.body) == (EventState.SUPPRESSED, None)
        assert {outcome.state for outcome in detail.handlers} == {HandlerState.DONE}
        assert (await receiver.only(message_id="lead-1")).erased

        # The person's own deletion stays finished: one more merge is no reason to hand anything over.
        for number, other in enumerate(("lead-1", "lead-2", "karin", None), 2):
            payload = {**merged, "messageId": f"a-{number}", "previousId": other}
            await receiver.deliver(payload)
        await receiver.deliver({"type": "identify", "userId": "lead-2", "messageId": "late", "timestamp": before})
        await receiver.dispatcher.run_due()
        await receiver.dispatcher.run_due()
        assert {record.state for record in await receiver.records(type="alias")} == {EventState.SUPPRESSED}
        assert {user for user, _ in forgotten[2:]} == {"lead-1", "lead-2"}
        async with receiver.database.transaction() as session:
            noted = await audit.list_newest(session, action=ERASED)
        assert "lead" not in json.dumps([entry.detail for entry in noted])


async def test_wh_15_an_event_of_a_device_whose_clock_runs_ahead_is_deleted_too(opened: Open) -> None:
    subscription, shelf = Subscription("acme-crm"), Shelf()
    subscription.to(shelf, types=["identify"])
    async with opened(subscription) as receiver:
        tomorrow = (receiver.clock() + timedelta(days=1)).isoformat()
        await receiver.deliver({"type": "identify", "userId": "karin", "messageId": "i-1", "timestamp": tomorrow})
        await receiver.dispatcher.run_due()
        receiver.clock.advance(seconds=1)
        await receiver.deliver({"type": "delete", "userId": "karin", "messageId": "d-1", "timestamp": tomorrow})
        await receiver.dispatcher.run_due()
        assert shelf.kept == {}
        assert (await receiver.only(message_id="i-1")).erased


async def test_wh_15_a_repeated_delete_is_complete_when_the_deletion_that_does_the_work_is(opened: Open) -> None:
    subscription, answers = Subscription("acme-crm"), list[Exception]()
    subscription.to(Shelf(), types=["identify", "alias"])

    @subscription.on("delete")
    async def forget(event: Event) -> None:
        if answers:
            raise answers.pop(0)

    async with opened(subscription) as receiver:

        async def send(message_id: str, **event: str) -> None:
            await receiver.deliver({"type": "delete", "userId": "karin", "messageId": message_id, **event})

        async def receipt(message_id: str) -> ErasureReceipt:
            found = await find_receipt(receiver.log, receiver.database, message_id)
            assert found is not None
            assert found.complete == (found.state is EventState.HANDLED) == (found.stored_events is not None)
            return found

        async def run() -> None:
            await receiver.dispatcher.run_due()
            receiver.clock.advance(seconds=2)

        await send("i-1", type="identify")
        await send("a-1", type="alias", previousId="lead")
        await run()
        answers.append(RetryError("later"))
        await send("d-1")
        await send("d-2")
        await send("d-3", userId="lead")
        await run()
        for message_id in ("d-2", "d-3"):
            assert (await receiver.only(message_id=message_id)).state is EventState.REPEATED_DELETE
            pending = await receipt(message_id)
            assert (pending.state, pending.done_by, pending.completed_at) == (EventState.PENDING, "d-1", None)
        assert not (await receiver.only(message_id="i-1")).erased
        await run()
        assert (await receiver.only(message_id="i-1")).erased
        first = await receipt("d-1")
        assert (first.complete, first.done_by, first.stored_events) == (True, "d-1", 4)
        for message_id in ("d-2", "d-3"):
            asked_at = receiver.clock() - timedelta(seconds=4)
            follows = replace(first, message_id=message_id, requested_at=asked_at, erased_through=asked_at)
            assert await receipt(message_id) == follows

        # A later deletion that is given up finishes nobody's.
        await send("i-2", type="identify")
        await run()
        answers += [RetryError("later"), ValidationError("never")]
        await send("d-4")
        await send("d-5")
        await run()
        assert (await receipt("d-5")).state is EventState.PENDING
        await run()
        assert (await receipt("d-5")).state is EventState.DEAD_LETTER
        await send("d-6")
        await run()
        assert [(await receipt(message_id)).complete for message_id in ("d-4", "d-5", "d-6")] == [False, True, True]


@pytest.mark.parametrize("state", [EventState.HANDLED, EventState.UNSUPPORTED, EventState.DEAD_LETTER])
async def test_the_receipt_of_a_repeated_delete_outlives_the_event_that_did_the_work(
    tmp_path: Path, on_sqlite: Open, state: EventState
) -> None:
    """Retention drops whole segments: the first delete can be gone while the second is still there."""
    hour = timedelta(hours=1)
    async with on_sqlite(Subscription("acme-crm")) as receiver:
        log = SqliteEventLog(tmp_path / "short.db", limits=SMALL)
        await log.append(new_event("d-1", type="delete"))
        for number in range(10):
            await log.append(new_event(f"m-{number}", person_hash="somebody-else"))
        await log.append(new_event("d-2", type="delete", received_at=NOON + hour, occurred_at=NOON + hour))
        claimed = await log.claim(["acme-crm"], limit=20, lease="lease", now=NOON, until=NOON + hour)
        for event in claimed:
            handled = Settlement(event.id, event.lease, EventState.HANDLED, NOON)
            if event.type != "delete":
                assert await settle(log, handled)
            elif state is EventState.DEAD_LETTER:
                assert await settle(log, replace(handled, state=state))
            else:
                assert await erase(log, replace(handled, state=state))
                told = {"handlers": {"forget (delete)": "unsupported" if state is EventState.UNSUPPORTED else "done"}}
                async with receiver.database.transaction() as session:
                    await audit.add(
                        session, actor="service", action=ERASED, subject=f"event {event.id}", now=NOON, detail=told
                    )
        assert await log.drop_before(NOON + hour) == 10
        receipt = await find_receipt(log, receiver.database, "d-2")
        assert receipt is not None
        assert (receipt.state, receipt.done_by, receipt.handlers) == (state, None, {})
        assert receipt.complete == (state is EventState.HANDLED)
        await log.close()
