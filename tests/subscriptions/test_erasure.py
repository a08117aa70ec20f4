"""Erasing a person: every handler and sink, every stored copy, and a receipt that names nobody."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

import pytest

from db.control import audit
from db.encryption import EncryptionKeys
from db.event_log.tables import EventState, HandlerState
from subscriptions import Event, InstallContext, InvalidEventPayload, RetryError, Subscription
from subscriptions.archive.erasure import ERASED, ErasureRefused, delete_message, find_receipt, send_delete
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
        await send_delete(receiver.client, "acme-crm", receiver.key, message)
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
        assert (receipt.stored_events, receipt.merged_ids) == (3, 0)
        assert receipt.handlers == dict.fromkeys(("shelf (delete)", "forget (delete)"), HandlerState.DONE)
        assert "karin" not in json.dumps(asdict(receipt), default=str)

        late = {"type": "track", "userId": "karin", "event": "Old", "messageId": "late", "timestamp": "2020-01-01"}
        await receiver.deliver(late)
        await receiver.dispatcher.run_due()
        assert set(shelf.kept) == {"zoe"}
        assert (await receiver.only(state=EventState.SUPPRESSED, message_id="late")).erased


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


async def test_a_delete_that_is_not_accepted_says_so(on_sqlite: Open) -> None:
    subscription = Subscription("acme-crm")
    async with on_sqlite(subscription) as receiver:
        message = delete_message("karin", now=receiver.clock())
        with pytest.raises(ErasureRefused, match="501"):
            await send_delete(receiver.client, "acme-crm", receiver.key, message)
        with pytest.raises(ErasureRefused, match="401"):
            await send_delete(receiver.client, "acme-crm", "no key", message)
        assert await find_receipt(receiver.log, receiver.database, message["messageId"]) is None
