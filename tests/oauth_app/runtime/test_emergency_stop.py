"""The emergency stop: what stops, how soon, what it costs, and what erasing destroys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import select

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import emergency_stop, install_tokens
from enable_with_segment.db.control.tables import ApiKey, ConnectLink, FlowState, InstallStatus, InstallToken
from enable_with_segment.db.database import Database
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.operators.api_tokens import Scope
from enable_with_segment.oauth_app.operators.roles import Operator, Role
from enable_with_segment.oauth_app.runtime.emergency_stop import (
    EmergencyStopSwitch,
    SegmentUseStopped,
    erase_everything,
    lift_stop,
    stop_everything,
)
from enable_with_segment.oauth_app.runtime.emergency_stop_gate import EmergencyStopGate
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.oauth_app.runtime.wiring import segment_of
from tests.oauth_app.operations import SERVICE, Operations, running_service

WHY = {"actor": "cli", "reason": "a drill"}


class Ticks:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Operations]:
    async with running_service(tmp_path) as running:
        yield running


async def _stop(service: Operations) -> None:
    """Engage the stop, and let the process be one second older."""
    await stop_everything(service.services.database, **WHY, now=utc_now())
    service.services.panic._read_at = None  # what a second does


async def test_tk_16_what_a_process_knows_is_younger_than_a_second(database: Database) -> None:
    ticks = Ticks()
    switch = EmergencyStopSwitch(database, clock=ticks)
    assert not await switch.engaged()
    assert await stop_everything(database, **WHY, now=utc_now())
    ticks.now += 0.39
    assert not await switch.engaged(), "answered from memory"
    ticks.now += 0.52
    assert await switch.engaged(), "nine tenths of a second later nobody gets an old answer"
    assert await lift_stop(database, **WHY, now=utc_now())
    ticks.now += 0.91
    assert not await switch.engaged()
    await switch.close()


async def test_tk_16_the_row_is_read_ahead_so_that_mostly_nobody_waits(database: Database) -> None:
    ticks = Ticks()
    switch = EmergencyStopSwitch(database, clock=ticks)
    assert not await switch.engaged()
    await stop_everything(database, **WHY, now=utc_now())
    ticks.now += 0.5
    assert not await switch.engaged(), "the first one is answered at once, and starts reading"
    await switch.close()
    assert await switch.engaged()


async def test_a_thousand_events_at_once_cost_one_query(sqlite_database: Database) -> None:
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        switch = EmergencyStopSwitch(sqlite_database)
        assert not any(await asyncio.gather(*(switch.engaged() for _ in range(1000))))
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert sum("emergency_stop" in statement for statement in statements) == 1


async def test_a_store_that_cannot_be_read_stops_too(tmp_path: Path) -> None:
    database = Database.open(f"sqlite+aiosqlite:///{tmp_path}/empty.db")
    switch = EmergencyStopSwitch(database)
    with pytest.raises(SQLAlchemyError):
        await switch.engaged()
    with pytest.raises(SegmentUseStopped):
        await switch.refuse_use_of_segment()
    await switch.close()
    await database.close()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), RuntimeError("of the driver's own")])
async def test_whatever_goes_wrong_while_the_stop_is_read_stops_too(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A driver whose connection breaks cancels what it was doing, and that is nobody's wish to stop."""

    async def broken(_database: Database) -> None:
        raise error

    monkeypatch.setattr(emergency_stop, "read", broken)
    switch = EmergencyStopSwitch(sqlite_database)
    reached: list[str] = []

    async def webhook(scope: Any, _receive: Any, _send: Any) -> None:
        reached.append(scope["type"])

    counted: list[tuple[str, int]] = []
    gate = EmergencyStopGate(webhook, switch, answered=lambda *one: counted.append(one))
    transport = httpx.ASGITransport(app=gate, root_path="/subscriptions")
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        assert (await client.post("/subscriptions/acme-crm")).status_code == 503
    assert counted == [("acme-crm", 503)]
    with pytest.raises(SegmentUseStopped):
        await switch.refuse_use_of_segment()
    assert not reached
    await switch.close()


async def test_tk_16_events_are_answered_503_and_taken_again_after_the_stop(service: Operations) -> None:
    _, key = await service.api_key()
    assert (await service.deliver(key, "m-1")).status_code == 202
    await _stop(service)
    refused = await service.deliver(key, "m-2")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
    assert "message" in refused.json()
    assert await service.services.event_log.show("m-2") == []
    (answers,) = [one for one in service.services.metrics.families() if one.name.endswith("deliveries_total")]
    assert {(one.labels["status"], one.value) for one in answers.samples} >= {("202", 1), ("503", 1)}
    await lift_stop(service.services.database, **WHY, now=utc_now())
    service.services.panic._read_at = None
    assert (await service.deliver(key, "m-2")).status_code == 202


async def test_tk_16_no_flow_starts_or_ends_and_no_link_is_used_up(service: Operations) -> None:
    link = (await service.services.connect_links.create("acct_1")).url
    await _stop(service)
    for method, url in (
        ("POST", link),
        ("GET", f"{SERVICE}/auth/segment"),
        ("GET", f"{SERVICE}/auth/segment/callback?code=c&state=s"),
        ("POST", f"{SERVICE}/auth/segment/manual-key"),
    ):
        answer = await service.http.request(method, url)
        assert answer.status_code == 503, url
        assert "paused" in answer.text
    assert await service.services.connect_links.look(link.rpartition("/")[2]) is not None


async def test_tk_16_nothing_is_sent_to_segment(service: Operations) -> None:
    await _stop(service)
    async with open_stores(service.settings) as stores, segment_of(service.settings, stores) as segment:
        assert segment is not None
        with pytest.raises(SegmentUseStopped):
            await segment.identity.exchange_code("code", code_verifier=None)
        with pytest.raises(SegmentUseStopped):
            await segment.identity.refresh("installs/1")


async def test_tk_16_the_api_makes_nothing_new_but_still_revokes(service: Operations) -> None:
    key_id, _ = await service.api_key()
    headers = await service.token()
    await _stop(service)
    for path in ("connect-links", "api-keys"):
        answer = await service.http.post(f"{SERVICE}/api/v1/{path}", json={"account": "a"}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "stopped")
    assert (await service.http.get(f"{SERVICE}/api/v1/installs", headers=headers)).status_code == 200
    assert (await service.http.delete(f"{SERVICE}/api/v1/api-keys/{key_id}", headers=headers)).status_code == 204


async def test_tk_16_erasing_destroys_every_secret_for_good(service: Operations, tmp_path: Path) -> None:
    services = service.services
    install = await service.install()
    _, key = await service.api_key()
    headers = await service.token(Scope.INSTALLS_READ)
    session_cookie = await services.operators.sessions.begin(Operator("ana", Role.OPERATOR), by="test")
    assert services.operators.links is not None
    way_in = await services.operators.links.mint()
    await services.connect_links.create("acct_1")
    assert services.flow is not None
    await services.flow.starts.start("acct_1")
    async with open_stores(service.settings) as stores, stores.control.transaction() as session:
        await install_tokens.save(
            session, stores.encryption, install.id, "upstream-token", expires_at=utc_now(), now=utc_now()
        )
        before = await install_tokens.get(session, install.id)
        assert before is not None
        generation = before.generation
    await _stop(service)
    erased = await erase_everything(services.database, **WHY, now=utc_now())
    assert (erased.tokens, erased.api_keys) == (1, 1)
    async with services.database.transaction() as session:
        token = (await session.exec(select(InstallToken))).one()
        keys = (await session.exec(select(ApiKey))).all()
        left: list[Any] = [*(await session.exec(select(ConnectLink))), *(await session.exec(select(FlowState)))]
    assert token.access_token_ciphertext is None
    assert token.generation > generation, "a late refresh finds its generation passed"
    assert all(k.key_ciphertext is None and k.revoked_at is not None for k in keys)
    assert left == []
    assert (await service.stored_install(install.id)).status is InstallStatus.NEEDS_RECONNECT
    assert await services.operators.sessions.look(session_cookie) is None
    assert await services.operators.links.use(way_in.rpartition("/")[2]) is None, "a link that was made before"
    assert (await service.http.get(f"{SERVICE}/api/v1/installs", headers=headers)).status_code == 401
    await lift_stop(services.database, **WHY, now=utc_now())
    services.panic._read_at = None
    services.api_keys.key_cache.forget()
    assert (await service.deliver(key, "m-1")).status_code == 401
    assert [entry.reason for entry in await service.audited("panic.erase")] == ["a drill"]


async def test_stopping_and_lifting_twice_changes_nothing_more(service: Operations) -> None:
    database = service.services.database
    assert [await stop_everything(database, **WHY, now=utc_now()) for _ in range(2)] == [True, False]
    assert [await lift_stop(database, **WHY, now=utc_now()) for _ in range(2)] == [True, False]
    assert len(await service.audited("panic.engage")) == 1
    assert len(await service.audited("panic.lift")) == 1
