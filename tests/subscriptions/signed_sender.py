"""A Webhooks destination for tests: it signs as Segment does (contract 5.12)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from enable_with_segment.http_client import httpx
from enable_with_segment.subscriptions.receiving.signature import sign, signed_text
from tests.subscriptions.receiver import Receiver

TRACK = {"type": "track", "event": "Ticket Closed", "userId": "u-881", "messageId": "m-0001"}


class Sender:
    """A Webhooks destination: a key, a secret, and bodies signed as Segment signs them."""

    def __init__(self, receiver: Receiver, key: str, secret: str) -> None:
        self.receiver = receiver
        self.key = key
        self.secret = secret

    async def send(
        self,
        value: object,
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        signature: str | None = None,
        path: str | None = None,
    ) -> httpx.Response:
        """Send a value, or bytes as they are."""
        body = value if isinstance(value, bytes) else encode(value)
        sent = {"Content-Type": "application/json", "X-Signature": signature or sign(self.secret, signed_text(body))}
        url = path or f"/subscriptions/acme-crm/{self.key}"
        return await self.receiver.client.request(method, url, content=body, headers={**sent, **(headers or {})})

    @asynccontextmanager
    async def sending_slowly(self, value: object) -> AsyncIterator[None]:
        """Begin to send a value of unknown length; its bytes come, and are accepted, when the block ends."""
        arriving, let_go = asyncio.Event(), asyncio.Event()
        body = encode(value)

        async def slowly() -> AsyncIterator[bytes]:
            arriving.set()
            await let_go.wait()
            yield body

        headers = {"X-Signature": sign(self.secret, signed_text(body))}
        url = f"/subscriptions/acme-crm/{self.key}"
        sending = asyncio.create_task(self.receiver.client.post(url, content=slowly(), headers=headers))
        await arriving.wait()
        try:
            yield
        finally:
            let_go.set()
            response = await sending
        assert response.status_code == 202


def encode(value: object) -> bytes:
    """JSON text as JavaScript writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
