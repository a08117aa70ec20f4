"""Erasing a person: every handler and sink, every stored copy, and a receipt that names nobody."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import pytest

from db.encryption import EncryptionKeys
from db.event_log.tables import EventState, HandlerState
from subscriptions import Event, InstallContext, InvalidEventPayload, Subscription
from subscriptions.archive.erasure import ErasureRefused, delete_message, find_receipt, send_delete
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


async def test_a_delete_that_is_not_accepted_says_so(on_sqlite: Open) -> None:
    subscription = Subscription("acme-crm")
    async with on_sqlite(subscription) as receiver:
        message = delete_message("karin", now=receiver.clock())
        with pytest.raises(ErasureRefused, match="501"):
            await send_delete(receiver.client, "acme-crm", receiver.key, message)
        with pytest.raises(ErasureRefused, match="401"):
            await send_delete(receiver.client, "acme-crm", "no key", message)
        assert await find_receipt(receiver.log, receiver.database, message["messageId"]) is None
