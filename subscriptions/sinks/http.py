"""Events to an HTTP endpoint, signed by Standard Webhooks."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_network
from urllib.parse import urlsplit

from enable_with_segment.components.errors import InvalidEventPayload, RetryError
from enable_with_segment.components.event import Event
from enable_with_segment.components.install_context import InstallContext
from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.http_client import httpx
from enable_with_segment.subscriptions.sinks.address_guard import AddressRefused
from enable_with_segment.subscriptions.sinks.guarded_transport import GuardedTransport, Resolve, resolve
from enable_with_segment.subscriptions.sinks.record import SinkRecord, record_of
from enable_with_segment.subscriptions.sinks.standard_webhooks import key_of, new_secret, signed_headers

logger = logging.getLogger(__name__)

_AT_ONCE = 8
_MOST_REDIRECTS = 3
_MOST_ANSWER_BYTES = 64 * 1024
_DRAIN_SECONDS = 1.0
_FINAL = frozenset({400, 405, 413, 414, 415, 422, 501})
"""Statuses that the same request would get again; any other refusal may be mended at the receiver, and is retried."""


class HttpSink:
    """Posts each event as ``{"type", "timestamp", "data"}``; ``data`` is the form of ``sinks.record``.

    ``webhook-id`` is the same on every retry, so the receiver can tell a repetition. Deletions are posted like any
    other event: the receiver has to erase the person.

    Args:
        url: an https URL on the public internet.
        secret: ``whsec_...``, shared with the receiver (:meth:`new_secret`).
        name: names the sink in the event log; give a second HTTP sink another one.
        allow: networks that may be reached although they are not public, such as ``10.2.0.0/16``; http is
            allowed with them.
        timeout_seconds: for one event, redirects included.
        tls: which certificates are trusted, for an endpoint with an authority of your own.

    Raises:
        ValueError: the URL, the secret or a network cannot be used.
    """

    batch = 2 * _AT_ONCE

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        name: str = "http",
        allow: Sequence[str] = (),
        timeout_seconds: float = 10.0,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve = resolve,
        clock: Clock = utc_now,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ({"https", "http"} if allow else {"https"}) or not parts.hostname or parts.username:
            raise ValueError("an HTTP sink needs an https URL without credentials")
        key_of(secret)
        self.name = name
        self._url = url
        self._secret = secret
        self._clock = clock
        self._seconds = timeout_seconds
        self._transport = GuardedTransport([ip_network(network) for network in allow], tls=tls, resolve=resolve)
        self._client = httpx.AsyncClient(transport=self._transport, timeout=timeout_seconds, trust_env=False)
        self._turns = asyncio.Semaphore(_AT_ONCE)

    @staticmethod
    def new_secret() -> str:
        """Make a secret to share with a receiver: ``whsec_`` and base64 of 32 random bytes."""
        return new_secret()

    async def write(self, events: Sequence[Event], install: InstallContext) -> list[Exception | None]:
        """Post each event; the answer says for each what became of it."""
        return list(await asyncio.gather(*(self._post(record_of(event, install)) for event in events)))

    async def erase(self, events: Sequence[Event], install: InstallContext) -> list[Exception | None]:
        """Post each deletion."""
        return await self.write(events, install)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _post(self, record: SinkRecord) -> Exception | None:
        data = record.as_json()
        body = json.dumps(
            {"type": record.type, "timestamp": data["timestamp"], "data": data}, ensure_ascii=False
        ).encode(errors="replace")
        async with self._turns:
            try:
                async with asyncio.timeout(self._seconds):
                    status, retry_after = await self._send(record.id, body)
                return judge_status(status, retry_after, now=self._clock())
            except AddressRefused as refused:
                return RetryError(str(refused))
            except TimeoutError:
                return RetryError(f"the endpoint did not answer within {self._seconds:g} s")
            except httpx.HTTPError as error:
                return RetryError(f"the endpoint does not answer ({type(error).__name__})")
            except Exception as error:  # an answer that a library trips over must not fail the other events
                logger.warning("Sink %s: an answer cannot be used", self.name, exc_info=error)
                return RetryError(f"the endpoint's answer cannot be used ({type(error).__name__})")

    async def _send(self, message_id: str, body: bytes) -> tuple[int, str | None]:
        headers = {
            "content-type": "application/json",
            **signed_headers(self._secret, message_id=message_id, timestamp=int(self._clock().timestamp()), body=body),
        }
        url = httpx.URL(self._url)
        for _ in range(_MOST_REDIRECTS + 1):
            request = self._client.build_request("POST", url, content=body, headers=headers)
            response = await self._client.send(request, stream=True)
            await _drain(response)
            if response.status_code not in (307, 308) or "location" not in response.headers:
                return response.status_code, response.headers.get("retry-after")
            target = url.join(response.headers["location"])
            if target.scheme != url.scheme or target.userinfo:
                break
            url = target
        return 310, None


async def _drain(response: httpx.Response) -> None:
    """Read what an answer says, so that its connection can be used again; close it where that is too much."""
    size = 0
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for part in response.aiter_raw():
                size += len(part)
                if size > _MOST_ANSWER_BYTES:
                    break
    await response.aclose()


def judge_status(status: int, retry_after: str | None, *, now: datetime) -> Exception | None:
    """Say what an endpoint's status means for the event: delivered, a dead letter, or another attempt."""
    if 200 <= status < 300:
        return None
    if status in _FINAL:
        return InvalidEventPayload(f"the endpoint answered {status}")
    if 300 <= status < 400:
        return RetryError("the endpoint redirects to where it cannot be followed")
    return RetryError(f"the endpoint answered {status}", retry_after=parse_retry_after(retry_after, now=now))


def parse_retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """Read a ``Retry-After`` header (RFC 9110, section 10.2.3): seconds or a date; ``None`` when it is neither."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return timedelta(seconds=min(int(text[:9]), 86_400))
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max(at - now, timedelta(0)), timedelta(days=1))
