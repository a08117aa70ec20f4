"""Receipts: from a messageId to everything that became of it."""

from __future__ import annotations

import json
from datetime import timedelta

from enable_with_segment import Event, RetryError, Subscription
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.subscriptions.archive.receipts import Receipt, receipt_of
from tests.subscriptions.receiver import Open, Receiver, Recorder, open_receiver, track

TRACK = {"type": "track", "event": "Paid", "userId": "u-1", "messageId": "m-1"}


async def receipts_of(receiver: Receiver) -> list[Receipt]:
    return [receipt_of(detail) for detail in await receiver.log.show("m-1")]


async def test_a_receipt_follows_an_event_to_its_last_handler(database_url: str, encryption: EncryptionKeys) -> None:
    crm, down = Subscription("acme-crm"), [True]

    @crm.on("track")
    async def good(event: Event) -> None: ...

    @crm.on("track")
    async def flaky(event: Event) -> None:
        if down:
            raise RetryError("the CRM is down", retry_after=timedelta(seconds=90))

    async with open_receiver(database_url, encryption, crm) as receiver:
        received_at = receiver.clock()
        assert await receipts_of(receiver) == []
        await receiver.deliver(TRACK)
        await receiver.deliver(TRACK)
        (receipt,) = await receipts_of(receiver)
        assert (receipt.state, receipt.attempts, receipt.handlers) == (EventState.PENDING, 0, ())
        assert (receipt.received_at, receipt.finished_at, receipt.handled_after) == (received_at, None, None)
        assert (receipt.account, receipt.event, receipt.duplicates) == ("acme", "Paid", 1)

        receiver.clock.advance(seconds=2)
        await receiver.dispatcher.run_due()
        (receipt,) = await receipts_of(receiver)
        by_name = {outcome.handler: outcome for outcome in receipt.handlers}
        assert by_name["good (track)"].state is HandlerState.DONE
        assert by_name["good (track)"].after == timedelta(seconds=2)
        assert by_name["flaky (track)"].state is HandlerState.RETRY
        assert "the CRM is down" in str(by_name["flaky (track)"].error)
        assert receipt.next_attempt_at == received_at + timedelta(seconds=92)

        down.clear()
        receiver.clock.advance(seconds=90)
        await receiver.dispatcher.run_due()
        (receipt,) = await receipts_of(receiver)
        assert receipt.state is EventState.HANDLED
        assert receipt.handled_after == timedelta(seconds=92)
        assert receipt.next_attempt_at is None
        by_name = {outcome.handler: outcome for outcome in receipt.handlers}
        assert (by_name["good (track)"].attempts, by_name["flaky (track)"].attempts) == (1, 2)


async def test_each_account_that_received_a_message_has_a_receipt_of_its_own(
    database_url: str, encryption: EncryptionKeys
) -> None:
    crm = Subscription("acme-crm")

    @crm.on("track")
    async def handle(event: Event) -> None: ...

    async with open_receiver(database_url, encryption, crm) as receiver:
        other = await receiver.mint("globex", install_id="ins_globex")
        await receiver.deliver(TRACK)
        await receiver.deliver(TRACK, key=other)
        receipts = await receipts_of(receiver)
        assert [(receipt.account, receipt.install_id) for receipt in receipts] == [
            ("acme", None),
            ("globex", "ins_globex"),
        ]
        assert "u-1" not in repr(receipts)


async def test_messages_with_very_long_ids_are_proven_and_shown_one_by_one(opened: Open) -> None:
    """What is stored of an id is cut, so several ids can be stored alike."""
    recorder, start = Recorder(types=("track",)), "long-" + "x" * 195
    stored = [start, f"{start}-1", f"{start}-2", "with\0nul"]
    missing = [f"{start}-3", start[:-1], "with\ufffdnul", "short"]
    async with opened(recorder.subscription) as receiver:
        for message_id in stored[:-1]:
            assert (await receiver.deliver(track(message_id, "Step " * 50))).status_code == 202
        await receiver.dispatcher.run_due()
        assert (await receiver.deliver(track(stored[-1]))).status_code == 202
        proof = await receiver.log.prove([*stored, *missing, *stored])
        assert (proof.checked, proof.missing, proof.unhandled) == (8, tuple(missing), ("with\0nul",))
        for message_id in stored:
            (detail,) = await receiver.log.show(message_id)
            assert json.loads(detail.body or b"")["messageId"] == message_id
            assert (await receiver.only(message_id=message_id)).id == detail.record.id
        for message_id in missing:
            assert await receiver.log.show(message_id) == []
        assert len(await receiver.records(event="Step " * 50)) == 3
