"""``MOST_PENDING_EVENTS`` reaches every way into the running service, and it says when it is reached."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.event_log.message_key import key_of_message
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.subscriptions.receiving.backlog_limit import BacklogLimit
from enable_with_segment.subscriptions.receiving.exchange import Headers
from tests.db.event_log.events import new_event
from tests.oauth_app.operations import SERVICE, running_service
from tests.subscriptions.receiving.server.door import Door, open_door, stored, until, warm


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """A service in which at most three events may wait. No handlers run in it."""
    async with open_door(tmp_path, environment={"most_pending_events": "3"}) as opened:
        yield opened


def _limit(door: Door) -> BacklogLimit:
    limit = door.service.services.backlog_limit
    assert limit is not None
    return limit


async def _said(http: httpx.AsyncClient) -> tuple[int, object, list[str]]:
    """What readiness and metrics say of it."""
    ready = await http.get(f"{SERVICE}/readyz")
    metrics = (await http.get(f"{SERVICE}/metrics")).text.splitlines()
    names = ("enable_with_segment_backlog_full ", "enable_with_segment_events_pending_limit ")
    return ready.status_code, ready.json()["backlog"], sorted(line for line in metrics if line.startswith(names))


async def test_a_full_backlog_refuses_every_way_in_alike_and_opens_again(door: Door) -> None:
    door.stop_the_clocks()
    connection = await warm(door)
    normal = await door.connect()
    assert (await connection.ask(door.delivery("m-3"))).status == 202
    await _limit(door).look()
    made = door.requests_made
    early = await connection.ask(door.delivery("late"))
    assert door.requests_made == made, "it was refused before a request was made of it"
    spelled_otherwise = await normal.ask(door.delivery("late", path="/subscriptions/acme%2Dcrm"))
    assert door.requests_made > made
    assert early.without_date == spelled_otherwise.without_date
    assert (early.status, early.headers["retry-after"]) == (503, "10")
    assert json.loads(early.body) == {"message": "Too many events wait to be handled. Try again."}
    fast_path = door.service.app.fast_path  # type: ignore[attr-defined]
    head, body = door.delivery("late").split(b"\r\n\r\n")
    lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
    headers = Headers([(name.lower(), value) for name, value in lines])
    assert not fast_path.take("acme-crm", headers, body, lambda _: None)
    assert await stored(door) == ["warm-0", "warm-1", "m-3"]
    _limit(door).most = 1_000  # as if most had been handled
    await _limit(door).look()
    assert (await connection.ask(door.delivery("late"))).status == 202
    with door.full():
        crowded = await connection.ask(door.delivery("later"))
    assert json.loads(crowded.body) == {"message": "Too many deliveries at the same moment. Try again."}


async def test_a_service_that_starts_with_a_full_backlog_finds_out_by_itself(tmp_path: Path) -> None:
    async with running_service(tmp_path, most_pending_events=3) as first:
        settings = first.settings
    async with open_stores(settings) as stores:
        for number in range(3):
            event = new_event(f"m-{number}", dedupe_key=key_of_message(f"m-{number}"), received_at=utc_now())
            await stores.event_log.append(event)
    environment = {"most_pending_events": 3, "encryption_keys": settings.encryption_keys}
    async with running_service(tmp_path, **environment) as service:
        limit = service.services.backlog_limit
        assert limit is not None
        await until(lambda: limit.is_reached)
        assert (await service.deliver("any", "late")).status_code == 503
        transport = httpx.ASGITransport(service.app, client=("10.0.0.9", 1))
        async with httpx.AsyncClient(transport=transport) as http:
            status, backlog, metrics = await _said(http)
        assert status == 200, "every process shares the backlog: none is better than another"
        assert isinstance(backlog, dict)
        assert (backlog["pending"], backlog["limit"], backlog["full"]) == (3, 3, True)
        assert metrics == ["enable_with_segment_backlog_full 1", "enable_with_segment_events_pending_limit 3"]


async def test_where_counting_takes_long_it_is_done_once_for_readiness_metrics_and_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_by_itself(_: BacklogLimit) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(BacklogLimit, "run", not_by_itself)
    async with running_service(tmp_path, most_pending_events=3) as service:
        _, key = await service.api_key()
        log, recent, limit = service.services.event_log, service.services.recent_backlog, service.services.backlog_limit
        assert limit is not None
        now, counted = 0.0, list[str]()

        def takes_long(name: str, count: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
            async def counting(*arguments: int) -> object:
                nonlocal now
                if arguments != (1,):  # whether the log answers at all
                    counted.append(name)
                    now += 3.0
                return await count(*arguments)

            return counting

        for name in ("backlog", "count_pending"):
            monkeypatch.setattr(log, name, takes_long(name, getattr(log, name)))
        monkeypatch.setattr(recent, "clock", lambda: now)
        await limit.look()
        assert (await service.deliver(key, "m-1")).status_code == 202
        transport = httpx.ASGITransport(service.app, client=("10.0.0.9", 1))
        async with httpx.AsyncClient(transport=transport) as http:
            ready = (await http.get(f"{SERVICE}/readyz")).json()["backlog"]
            await asyncio.gather(*(service.deliver(key, f"more-{number}") for number in range(3)))
            metrics = (await http.get(f"{SERVICE}/metrics")).text.splitlines()
            await limit.look()
            assert counted == ["count_pending", "backlog"]
            assert (ready["pending"], limit.is_reached) == (1, False)
            assert "enable_with_segment_events_pending 1" in metrics
            now += 60.0
            await limit.look()
            assert counted == ["count_pending", "backlog", "count_pending"]
            assert limit.is_reached


async def test_without_a_limit_nothing_is_said_of_one(tmp_path: Path) -> None:
    async with running_service(tmp_path, most_pending_events=0) as service:
        assert service.services.backlog_limit is None
        _, key = await service.api_key()
        answers = await asyncio.gather(*(service.deliver(key, f"m-{number}") for number in range(5)))
        assert {answer.status_code for answer in answers} == {202}
        transport = httpx.ASGITransport(service.app, client=("10.0.0.9", 1))
        async with httpx.AsyncClient(transport=transport) as http:
            status, backlog, metrics = await _said(http)
        assert (status, metrics) == (200, [])
        assert isinstance(backlog, dict)
        assert "full" not in backlog
