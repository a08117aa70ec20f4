"""While our stores are slow or hang, a delivery is answered before Segment stops to wait for that (contract 5.7)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from enable_with_segment.db.control import api_keys, emergency_stop
from enable_with_segment.db.event_log.records import Appended
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.runtime import emergency_stop_gate
from enable_with_segment.subscriptions.receiving.signature import sign, signed_text
from enable_with_segment.subscriptions.receiving.signed_webhook import SignedWebhookLimits
from enable_with_segment.subscriptions.receiving.watchdog import LOOK_EVERY_SECONDS
from enable_with_segment.subscriptions.receiving.webhook import WebhookLimits
from tests.oauth_app.operations import SERVICE, Operations, running_service

ANSWERED_WITHIN = 4.5
BATCH_ANSWERED_WITHIN = 9.0
FOREVER = 1_000.0
_STEP = 0.05

Deliver: TypeAlias = Callable[[], Awaitable[httpx.Response]]


@dataclass
class SlowStores:
    """A service, and how many seconds each of its stores takes; those pass only when the test lets them."""

    service: Operations
    now: float
    stop: float = 0.0
    look_up: float = 0.0
    commit: float = 0.0

    async def seconds_until(self, deliver: Deliver) -> tuple[int, float]:
        """Return how a delivery is answered, and after how many seconds."""
        began = self.now
        answering = asyncio.ensure_future(deliver())
        while True:
            await whatever_need_not_wait()
            if answering.done():
                return (await answering).status_code, self.now - began
            assert self.now - began < 100
            self.now += _STEP

    async def plain(self) -> httpx.Response:
        return await self.service.deliver(self.key, "m-1")

    async def signed(self) -> httpx.Response:
        return await self._send(_event(1))

    async def batch(self) -> httpx.Response:
        return await self._send([_event(number) for number in range(1_000)])

    async def _send(self, value: object) -> httpx.Response:
        body = json.dumps(value, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", "X-Signature": sign(self.secret, signed_text(body))}
        url = f"{SERVICE}/subscriptions/acme-crm/{self.signed_key}"
        return await self.service.http.post(url, content=body, headers=headers)

    async def mint(self) -> None:
        _, self.key = await self.service.api_key()
        async with self.service.services.database.transaction() as session:
            minted = await self.service.services.api_keys.mint(
                session, account="acct_1", component="acme-crm", signed=True
            )
        self.signed_key, self.secret = minted.api_key, str(minted.signing_secret)


async def whatever_need_not_wait() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def _event(number: int) -> dict[str, str]:
    return {"type": "track", "event": "Paid", "userId": "u", "messageId": f"m-{number}"}


@pytest.fixture
async def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlowStores]:
    loop = asyncio.get_running_loop()
    async with running_service(tmp_path) as service:
        stores = SlowStores(service, loop.time())
        await stores.mint()
        read_stop, read_keys = emergency_stop.read, api_keys.read_by_hashes

        async def slow_stop(database: Any) -> Any:
            await asyncio.sleep(stores.stop)
            return await read_stop(database)

        async def slow_keys(database: Any, hashes: Any) -> Any:
            await asyncio.sleep(stores.look_up)
            return await read_keys(database, hashes)

        async def slow_commit(_event: object) -> Appended:
            await asyncio.sleep(stores.commit)
            return Appended(1)

        with monkeypatch.context() as patched:
            patched.setattr(emergency_stop, "read", slow_stop)
            patched.setattr(api_keys, "read_by_hashes", slow_keys)
            patched.setattr(service.services.event_log, "append", slow_commit)
            patched.setattr(loop, "time", lambda: stores.now)
            yield stores
            stores.now += 2 * FOREVER
            await whatever_need_not_wait()


@pytest.mark.parametrize("way", ["plain", "signed"])
@pytest.mark.parametrize(
    ("stop", "look_up", "commit"),
    [(FOREVER, 0, 0), (0, FOREVER, 0), (0, 0, FOREVER), (0, 3.2, FOREVER), (3.2, FOREVER, 0), (1.6, 1.6, FOREVER)],
)
async def test_no_store_that_hangs_and_no_sum_of_slow_ones_keeps_an_event_waiting_for_longer(
    slow: SlowStores, way: str, stop: float, look_up: float, commit: float
) -> None:
    slow.stop, slow.look_up, slow.commit = stop, look_up, commit
    status, seconds = await slow.seconds_until(getattr(slow, way))
    assert status == 503
    assert 3 < seconds <= ANSWERED_WITHIN


@pytest.mark.parametrize("way", ["plain", "signed"])
async def test_stores_that_are_slow_together_but_not_too_slow_are_waited_for(slow: SlowStores, way: str) -> None:
    slow.stop = slow.look_up = slow.commit = 1.0
    status, seconds = await slow.seconds_until(getattr(slow, way))
    assert status == 202
    assert seconds > 2.9  # clocks of a loop round


@pytest.mark.parametrize(("commit", "status"), [(1.4, 202), (3.0, 503), (FOREVER, 503)])
async def test_a_batch_has_one_limit_for_all_its_commits(slow: SlowStores, commit: float, status: int) -> None:
    slow.commit = commit  # there are five
    answered, seconds = await slow.seconds_until(slow.batch)
    assert answered == status
    assert 6 < seconds <= BATCH_ANSWERED_WITHIN


def test_the_limits_fit_into_the_time_that_segment_waits() -> None:
    plain, signed = WebhookLimits(), SignedWebhookLimits()
    assert plain.store_seconds + LOOK_EVERY_SECONDS <= ANSWERED_WITHIN
    assert signed.store_seconds + LOOK_EVERY_SECONDS <= ANSWERED_WITHIN
    assert emergency_stop_gate._LONGEST_READ_SECONDS + LOOK_EVERY_SECONDS <= ANSWERED_WITHIN
    assert signed.batch_seconds + LOOK_EVERY_SECONDS <= BATCH_ANSWERED_WITHIN
