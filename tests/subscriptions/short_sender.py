"""Deliveries on the short way, as the HTTP server offers them."""

from __future__ import annotations

import asyncio
import json

from enable_with_segment.subscriptions.receiving.exchange import Headers
from enable_with_segment.subscriptions.receiving.prepared_answer import PreparedAnswer
from tests.subscriptions.receiver import Receiver, basic, track


async def offer(receiver: Receiver, *message_ids: str) -> list[asyncio.Future[PreparedAnswer]]:
    """Offer deliveries at the same moment, which have to be taken; returns what will hold their answers."""
    way = receiver.webhook.fast_path(is_open=lambda: True)
    presented = basic(receiver.key).encode()
    recognition = receiver.api_keys.key_cache
    assert (await recognition.look_up(receiver.key, place=recognition.place(presented))).holder is not None
    answers: list[asyncio.Future[PreparedAnswer]] = []
    for message_id in message_ids:
        body = json.dumps(track(message_id)).encode()
        headers = Headers([(b"authorization", presented), (b"content-length", str(len(body)).encode())])
        answer: asyncio.Future[PreparedAnswer] = asyncio.get_running_loop().create_future()
        assert way.take("acme-crm", headers, body, answer.set_result)
        answers.append(answer)
    return answers
