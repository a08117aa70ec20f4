"""The workers that carry deliveries to partners' endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox.clock import timestamp
from enable_with_segment.segment_sandbox.config import LOOPBACK_HOSTS
from enable_with_segment.segment_sandbox.delivery.deliveries import Attempt, Deliveries, Delivery
from enable_with_segment.segment_sandbox.delivery.outcomes import Outcome, outcome_of_error, outcome_of_status
from enable_with_segment.segment_sandbox.delivery.request import api_key_and_settings, build_request
from enable_with_segment.segment_sandbox.delivery.webhooks import TIMEOUT_SECONDS, WebhooksDestination
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.world import Destination

LONGEST_ANSWER = 64 * 1024


class PlainHttpRefused(Exception):
    """The endpoint has no TLS and the switch for it is off; no request is sent (contract 5.2)."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request to a partner and what came back."""

    request: httpx.Request
    status: int | None
    headers: httpx.Headers
    body: bytes
    milliseconds: float
    error: Exception | None = None

    @property
    def message(self) -> str | None:
        """The text for the customer. It is read from `application/json` answers only (contract 5.5)."""
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return None
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        message = value.get("message") if isinstance(value, dict) else None
        return message if isinstance(message, str) else None


class Courier:
    """Sends what is due, several at once, and reports each attempt's outcome to the log."""

    def __init__(self, state: State, deliveries: Deliveries, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._state = state
        self._deliveries = deliveries
        self._transport = transport
        self._clients: dict[bool, httpx.AsyncClient] = {}
        self._keeps_clients = False
        self._under_way: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Carry deliveries while the block runs. What is under way at its end is dropped."""
        dispatcher = asyncio.create_task(self._dispatch(), name="sandbox-courier")
        self._keeps_clients = True
        try:
            yield
        finally:
            self._keeps_clients = False
            tasks = [dispatcher, *self._under_way]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for client in self._clients.values():
                await client.aclose()
            self._clients.clear()

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client that checks certificates as the switch says; kept, with its connections, while running."""
        verify = self._state.switches.verify_tls
        client = self._clients.get(verify) or httpx.AsyncClient(
            transport=self._transport,
            verify=_trusted() if verify else _trusting(),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )
        if self._keeps_clients:
            self._clients[verify] = client
            yield client
        else:
            async with client:
                yield client

    async def _dispatch(self) -> None:
        while True:
            changed, state = self._deliveries.changed, self._state
            while len(self._under_way) < max(1, state.switches.delivery_parallelism):
                delivery = self._deliveries.take_due(state.now())
                if delivery is None:
                    break
                task = asyncio.create_task(self._attempt(delivery))
                self._under_way.add(task)
                task.add_done_callback(self._finished)
            await self._wait(changed)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._deliveries.wake()

    async def _wait(self, changed: asyncio.Event) -> None:
        """Wait for a change, or until the first queued delivery is due while a worker is free for it."""
        queue, state = self._deliveries.queue, self._state
        free = len(self._under_way) < max(1, state.switches.delivery_parallelism)
        timeout = state.clock.real_seconds_until(queue[0][0]) if queue and free else None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), timeout)

    async def _attempt(self, delivery: Delivery) -> None:
        state, deliveries = self._state, self._deliveries
        if deliveries.pending.get(delivery.id) is not delivery:
            return
        webhook = state.world.webhooks.get(delivery.destination)
        destination = state.world.destinations.get(delivery.destination)
        switches = state.switches
        at = timestamp(state.now())
        if webhook is not None and webhook.enabled:
            exchange = await self._exchange_with_webhook(webhook, delivery)
            if webhook.variant == "actions":
                switches = replace(switches, retry_408_and_423="yes")
        elif destination is not None and (destination.enabled or delivery.kind == "replay"):
            exchange = await self.exchange(destination, delivery.body)
        else:
            deliveries.settle(delivery, Outcome("discarded", "destination_disabled"))
            return
        if exchange.error is not None:
            outcome = outcome_of_error(exchange.error)
        else:
            outcome = outcome_of_status(exchange.status or 0, switches, deliveries.dice)
        if deliveries.pending.get(delivery.id) is not delivery:
            return
        delivery.attempts.append(
            Attempt(
                number=len(delivery.attempts) + 1,
                at=at,
                status=exchange.status,
                code=outcome.code,
                milliseconds=round(exchange.milliseconds, 2),
                message=exchange.message,
                retry_after=_seconds(exchange.headers.get("retry-after")),
            )
        )
        deliveries.settle(delivery, outcome)

    async def exchange(self, destination: Destination, body: bytes, api_key: str | None = None) -> Exchange:
        """Send one body to a destination's endpoint, with the key it has now or with another one."""
        state = self._state
        entry = state.world.catalog[destination.slug]
        key, settings = api_key_and_settings(destination, entry)
        request = build_request(entry.endpoint, key if api_key is None else api_key, settings, body, state.switches)
        return await self._exchange(request, state.switches.delivery_timeout_seconds)

    async def _exchange_with_webhook(self, webhook: WebhooksDestination, delivery: Delivery) -> Exchange:
        """Send a body to every URL; of classic destinations with several, one success counts for all."""
        seconds = TIMEOUT_SECONDS[webhook.variant]
        requests = webhook.requests(delivery.body, delivery.signed_text)
        exchanges = [await self._exchange(request, seconds) for request in requests]
        return next((found for found in exchanges if found.status is not None and found.status < 300), exchanges[-1])

    async def _exchange(self, request: httpx.Request, timeout_seconds: float) -> Exchange:
        started = time.perf_counter()
        status, headers, content, error = None, httpx.Headers(), b"", None
        try:
            _refuse_plain_http(str(request.url), allowed=self._state.switches.allow_plain_http)
            async with asyncio.timeout(timeout_seconds):
                status, headers, content = await self._send(request)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, PlainHttpRefused) as problem:
            error = problem
        return Exchange(request, status, headers, content, (time.perf_counter() - started) * 1000, error)

    async def _send(self, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        async with self._client() as client:
            follow = self._state.switches.follow_redirects
            response = await client.send(request, stream=True, follow_redirects=follow)
            try:
                content = b""
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > LONGEST_ANSWER:
                        break
            finally:
                await response.aclose()
            return response.status_code, response.headers, content

    async def settled(self, timeout_seconds: float, *, retries: bool = True) -> bool:
        """Wait until nothing is pending; without `retries`, what only waits for a retry does not count."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while self._busy(retries=retries):
                    await self._deliveries.changed.wait()
        return not self._busy(retries=retries)

    def _busy(self, *, retries: bool) -> bool:
        pending = self._deliveries.pending.values()
        return any(retries or delivery.state != "awaiting_retry" for delivery in pending)


def _refuse_plain_http(url: str, *, allowed: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not allowed and parts.hostname not in LOOPBACK_HOSTS:
        raise PlainHttpRefused(f"{url} has no TLS.")


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Loading the trusted certificates is slow, so it is done once."""
    return httpx.create_ssl_context()


@functools.cache
def _trusting() -> ssl.SSLContext:
    return httpx.create_ssl_context(verify=False)


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isdigit() else None
