"""Metrics: what a receiving service counts, what its stores say, and who may read it."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.requests import Request

from enable_with_segment import Event, RetryError, Subscription
from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import outbox
from enable_with_segment.db.control.tables import InstallStatus
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.postgresql.log import SqlEventLog
from enable_with_segment.db.event_log.recent_backlog import RecentBacklog
from enable_with_segment.db.event_log.records import Backlog, EventLogUnavailable
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.observability.exposition import render
from enable_with_segment.oauth_app.observability.metrics import Metrics
from enable_with_segment.oauth_app.observability.store_metrics import StoreMetrics
from enable_with_segment.oauth_app.web.routes.metrics import may_read
from tests.oauth_app.conftest import SERVICE, FrontDoor
from tests.rows import an_install
from tests.subscriptions.receiver import open_receiver
from tests.subscriptions.signed_sender import Sender

TRACK = {"type": "track", "event": "Paid", "userId": "u-1"}


def values(text: str) -> dict[str, float]:
    """The lines of a page without the service's prefix, and without times."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name.removeprefix("enable_with_segment_")] = float(value)
    return found


async def test_what_goes_by_is_counted(tmp_path: Path, encryption: EncryptionKeys) -> None:
    crm, metrics = Subscription("acme-crm"), Metrics()

    @crm.on("track")
    async def good(event: Event) -> None: ...

    @crm.on("track")
    async def bad(event: Event) -> None:
        raise RetryError

    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    async with open_receiver(url, encryption, crm, observer=metrics) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        await receiver.deliver({**TRACK, "messageId": "m-1"})
        await receiver.deliver({**TRACK, "messageId": "m-1"})
        await receiver.deliver({**TRACK, "messageId": "m-1", "event": "Refunded"})
        await receiver.deliver({"type": "page", "userId": "u-1"})
        await receiver.deliver(TRACK, key="unknown")
        await receiver.deliver(TRACK, component="no-such-endpoint")
        await sender.send([{**TRACK, "messageId": f"m-{number}"} for number in range(10, 13)])
        await receiver.dispatcher.run_due()
        found = values(render(metrics.families()))
    assert found['deliveries_total{component="acme-crm",status="202"}'] == 4
    assert found['deliveries_total{component="acme-crm",status="501"}'] == 1
    assert found['deliveries_total{component="acme-crm",status="401"}'] == 1
    assert found['deliveries_total{component="",status="404"}'] == 1
    assert found['events_received_total{component="acme-crm"}'] == 4
    assert found['events_duplicate_total{component="acme-crm"}'] == 2
    assert found['events_differing_total{component="acme-crm"}'] == 1
    assert found["commit_seconds_count"] == 6
    assert found['handler_results_total{component="acme-crm",handler="good (track)",result="done"}'] == 4
    assert found['handler_results_total{component="acme-crm",handler="bad (track)",result="retry"}'] == 4
    assert found['handler_seconds_count{component="acme-crm",handler="good (track)"}'] == 4
    assert found['event_outcomes_total{component="acme-crm",state="pending"}'] == 4


async def test_labels_never_come_from_a_request(front_door: FrontDoor) -> None:
    async with front_door.client() as http, front_door.app.router.lifespan_context(front_door.app):
        for path in ("/", "/healthz", "/connect/abc", "/made-up/path", "/made-up-too"):
            await http.get(f"{SERVICE}{path}")
    text = render(front_door.services.metrics.families())
    routes = set(re.findall(r'http_responses_total\{route="([^"]*)"', text))
    assert routes == {"home", "healthz", "connect", "other"}


async def test_the_stores_are_read_at_most_every_five_seconds(database: Database, database_url: str) -> None:
    log = open_event_log(database_url.replace("control.db", "events.db"))
    now, ticks = utc_now(), [0.0]
    metrics = StoreMetrics(database, log, RecentBacklog(log, clock=lambda: ticks[0]), clock=lambda: now)
    empty = values(render(await metrics.families()))
    assert empty["oldest_undelivered_seconds"] == 0
    assert empty["outbox_pending"] == 0
    async with database.transaction() as session:
        install = an_install("ins_1", now=now, status=InstallStatus.PROVISIONING)
        session.add(install)
        await session.flush()
        await outbox.add(session, "provision", install.id, now=now - timedelta(seconds=40))
    assert values(render(await metrics.families())) == empty
    ticks[0] = 5.0
    found = values(render(await metrics.families()))
    assert found["outbox_pending"] == 1
    assert found["outbox_oldest_seconds"] == 40
    assert found[f'installs{{status="{InstallStatus.PROVISIONING.value}"}}'] == 1
    assert found['store_up{store="event_log"}'] == found['store_up{store="control"}'] == 1
    await log.close()


class Unreachable(SqlEventLog):
    """An event log whose database is down."""

    def __init__(self) -> None:
        pass

    async def backlog(self) -> Backlog:
        raise EventLogUnavailable("postgres://user:secret@host is down")


async def test_a_store_that_is_away_is_said_to_be_and_hides_nothing_else(database: Database) -> None:
    log = Unreachable()
    text = render(await StoreMetrics(database, log, RecentBacklog(log)).families())
    assert values(text)['store_up{store="event_log"}'] == 0
    assert values(text)["outbox_pending"] == 0
    assert "secret" not in text


async def test_the_backlog_of_both_engines(database_url: str, encryption: EncryptionKeys) -> None:
    crm = Subscription("acme-crm")

    @crm.on("track")
    async def handle(event: Event) -> None:
        raise RetryError

    async with open_receiver(database_url, encryption, crm) as receiver:
        started = receiver.clock()
        assert await receiver.log.backlog() == Backlog(0, 0, None)
        await receiver.deliver({**TRACK, "messageId": "m-1"})
        receiver.clock.advance(minutes=5)
        await receiver.deliver({**TRACK, "messageId": "m-2"})
        assert await receiver.log.backlog() == Backlog(2, 0, started)
        for _ in range(40):
            receiver.clock.advance(hours=6)
            await receiver.dispatcher.run_due()
        assert await receiver.log.backlog() == Backlog(0, 2, None)


def request(client: str | None, headers: dict[str, str]) -> Request:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "client": None if client is None else (client, 1)})


@pytest.mark.parametrize(
    ("client", "headers", "token", "allowed"),
    [
        ("127.0.0.1", {}, None, True),
        ("10.1.2.3", {}, None, True),
        ("::1", {}, None, True),
        ("8.8.8.8", {}, None, False),
        ("127.0.0.1", {"X-Forwarded-For": "8.8.8.8"}, None, False),
        ("127.0.0.1", {"Forwarded": "for=8.8.8.8"}, None, False),
        (None, {}, None, False),
        ("testclient", {}, None, False),
        ("8.8.8.8", {"Authorization": "Bearer s3cret"}, "s3cret", True),
        ("8.8.8.8", {"Authorization": "Bearer other"}, "s3cret", False),
        ("8.8.8.8", {"Authorization": "Bearer ë"}, "s3cret", False),
        ("127.0.0.1", {}, "s3cret", False),
    ],
)
def test_who_may_read(client: str | None, headers: dict[str, str], token: str | None, allowed: bool) -> None:
    assert may_read(request(client, headers), token) is allowed


async def test_the_page_begins_with_the_oldest_undelivered_event(front_door: FrontDoor) -> None:
    async with front_door.app.router.lifespan_context(front_door.app):
        transport = httpx.ASGITransport(front_door.app, client=("10.0.0.9", 1))
        async with httpx.AsyncClient(transport=transport, base_url=SERVICE) as http:
            page = await http.get("/metrics")
            assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert page.text.startswith("# HELP enable_with_segment_oldest_undelivered_seconds ")
            assert (await http.get("/metrics", headers={"X-Forwarded-For": "8.8.8.8"})).status_code == 404
