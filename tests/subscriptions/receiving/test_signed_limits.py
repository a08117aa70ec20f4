"""How much signed deliveries may bring, alone and together, and what they are told when it cannot be taken."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from enable_with_segment.db.event_log.records import EventLogUnavailable
from enable_with_segment.subscriptions.receiving.signature import sign
from enable_with_segment.subscriptions.receiving.signed_webhook import SignedWebhookLimits
from enable_with_segment.subscriptions.receiving.webhook import WebhookLimits
from tests.subscriptions.answers import message
from tests.subscriptions.broken_log import BrokenLog
from tests.subscriptions.receiver import Open, Recorder
from tests.subscriptions.signed_sender import TRACK, Sender, encode


async def test_sizes_are_bounded_packed_and_unpacked(on_sqlite: Open) -> None:
    limits = SignedWebhookLimits(body_bytes=200_000, single_bytes=1_000)
    async with on_sqlite(Recorder().subscription, signed_limits=limits) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        small = encode([TRACK])
        packed = {"Content-Encoding": "gzip"}
        signature = sign(sender.secret, encode(TRACK))
        assert (await sender.send(gzip.compress(small), signature=signature, headers=packed)).status_code == 202
        bomb = gzip.compress(b"[" + b" " * 50_000_000)
        assert (await sender.send(bomb, signature=signature, headers=packed)).status_code == 413
        assert (await sender.send({**TRACK, "text": "x" * 1_000})).status_code == 413
        assert (await sender.send([{**TRACK, "text": "x" * 250_000}])).status_code == 413
        assert (await sender.send(small, headers={"Content-Encoding": "br"})).status_code == 415

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b" " * 65_536

        response = await receiver.client.post(
            f"/subscriptions/acme-crm/{sender.key}", content=endless(), headers={"X-Signature": signature}
        )
        assert response.status_code == 413


async def test_a_large_element_behind_the_first_spoils_no_batch(on_sqlite: Open) -> None:
    recorder = Recorder()
    async with on_sqlite(recorder.subscription, signed_limits=SignedWebhookLimits(single_bytes=1_000)) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        large = {**TRACK, "messageId": "large", "text": "x" * 5_000}
        assert (await sender.send([TRACK, large])).status_code == 202
        await receiver.dispatcher.run_due()
        assert sorted(str(event.message_id) for event in recorder.events) == ["large", "m-0001"]


async def test_wh_04_an_event_too_large_to_be_verified_is_413_whatever_its_signature(on_sqlite: Open) -> None:
    async with on_sqlite(Recorder().subscription, signed_limits=SignedWebhookLimits(single_bytes=1_000)) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        for large in ({**TRACK, "text": "x" * 5_000}, {**TRACK, "text": ',"}],[{' * 1_000}):
            for value in (large, [large], [large, TRACK]):
                for signature in (None, "0" * 40):
                    refused = await sender.send(value, signature=signature)
                    assert (refused.status_code, "1000 bytes" in message(refused)) == (413, True)
        assert (await sender.send([TRACK, large], signature="0" * 40)).status_code == 401
        stranger = Sender(receiver, f"{sender.key}x", sender.secret)
        assert (await stranger.send([large])).status_code == 401, "only who has the key is told"
        assert await receiver.records() == []


async def test_bodies_in_memory_are_bounded_together(on_sqlite: Open) -> None:
    limits = SignedWebhookLimits(body_bytes=10_000, memory_bytes=15_000)
    async with on_sqlite(Recorder().subscription, signed_limits=limits) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        async with sender.sending_slowly(TRACK):  # without a length it could be as large as any
            assert (await sender.send({**TRACK, "messageId": "small"})).status_code == 202
            refused = await sender.send({**TRACK, "messageId": "large", "text": "x" * 6_000})
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
        assert (await sender.send({**TRACK, "messageId": "large", "text": "x" * 6_000})).status_code == 202


async def test_wh_14_signed_bodies_of_one_sender_leave_memory_for_the_others(on_sqlite: Open) -> None:
    limits = SignedWebhookLimits(body_bytes=10_000, memory_bytes=40_000)
    async with on_sqlite(Recorder().subscription, signed_limits=limits) as receiver, AsyncExitStack() as slowly:
        loud, quiet = [Sender(receiver, *await receiver.mint_signed(account)) for account in ("acme", "other")]
        for _ in range(3):
            await slowly.enter_async_context(loud.sending_slowly(TRACK))
        large = {**TRACK, "messageId": "large", "text": "x" * 8_000}
        assert (await loud.send(large)).status_code == 503
        assert (await quiet.send(large)).status_code == 202


async def test_wh_11_signed_and_plain_deliveries_are_counted_together(on_sqlite: Open) -> None:
    limits = WebhookLimits(deliveries_at_once=1)
    async with on_sqlite(Recorder().subscription, webhook_limits=limits) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        async with sender.sending_slowly(TRACK):
            refused = await sender.send({**TRACK, "messageId": "signed"})
            assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
            assert (await receiver.deliver({**TRACK, "messageId": "plain"})).status_code == 503
        assert (await sender.send({**TRACK, "messageId": "signed"})).status_code == 202
        assert (await receiver.deliver({**TRACK, "messageId": "plain"})).status_code == 202


async def test_a_count_that_shrank_grows_back_where_all_deliveries_are_signed(on_sqlite: Open) -> None:
    limits = WebhookLimits(store_seconds=0.08)  # so that turns of the event loop are looked at often
    async with on_sqlite(Recorder().subscription, webhook_limits=limits) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        limit = receiver.webhook.concurrency_limit
        highest = limit.most
        limit.turn_took(5.0)
        assert limit.most < highest
        async with asyncio.timeout(20):
            while limit.most < highest:
                assert (await sender.send(TRACK)).status_code == 202


async def test_our_own_trouble_is_503_with_retry_after(on_sqlite: Open) -> None:
    log = BrokenLog(EventLogUnavailable("postgres://user:secret@host is down"))
    async with on_sqlite(Recorder().subscription, event_log=log) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        for value in (TRACK, [TRACK, TRACK]):
            response = await sender.send(value)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            assert "secret" not in message(response)
