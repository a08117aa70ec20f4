"""Flow states: consumed once, by one browser, in time."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import flow_states
from enable_with_segment.db.control.tables import FlowState
from enable_with_segment.db.database import Database

NOW = utc_now()


async def start(
    database: Database, state: str = "state", *, expires_at: datetime = NOW + timedelta(minutes=10)
) -> None:
    async with database.transaction() as session:
        flow = FlowState(
            state_hash=flow_states.digest(state),
            cookie_hash=flow_states.digest("cookie"),
            account="northwind",
            component="acme-crm",
            settings={"region": "eu"},
            code_verifier_ciphertext="v1.k.x",
            created_at=NOW,
            expires_at=expires_at,
        )
        await flow_states.add(session, flow)


async def consume(
    database: Database, state: str = "state", cookie: str = "cookie", *, now: datetime = NOW
) -> FlowState | None:
    async with database.transaction() as session:
        return await flow_states.consume(session, state, cookie, component="acme-crm", code="code", now=now)


async def test_of_a_hundred_simultaneous_consumptions_exactly_one_wins(database: Database) -> None:
    await start(database)
    results = await asyncio.gather(*(consume(database) for _ in range(100)))
    winners = [flow for flow in results if flow is not None]
    assert len(winners) == 1
    assert (winners[0].account, winners[0].settings) == ("northwind", {"region": "eu"})


@pytest.mark.parametrize(("state", "cookie"), [("other", "cookie"), ("state", "other"), ("", "cookie"), ("state", "")])
async def test_another_state_or_browser_consumes_nothing_and_spoils_nothing(
    database: Database, state: str, cookie: str
) -> None:
    await start(database)
    assert await consume(database, state, cookie) is None
    assert await consume(database) is not None


async def test_an_expired_state_is_refused_while_its_row_is_still_there(database: Database) -> None:
    await start(database)
    assert await consume(database, now=NOW + timedelta(minutes=10)) is None
    assert await consume(database, now=NOW + timedelta(minutes=9, seconds=59)) is not None


async def test_neither_state_nor_cookie_nor_code_is_stored(database: Database) -> None:
    await start(database, "the-very-state")
    await consume(database, "the-very-state")
    async with database.transaction() as session:
        found = await flow_states.find(session, "the-very-state")
    assert found is not None
    assert found.code_hash == flow_states.digest("code")
    values = found.model_dump().values()
    assert "the-very-state" not in values
    assert "cookie" not in values
    assert "code" not in values


async def test_a_finished_flow_tells_how_it_ended_and_forgets_its_verifier(database: Database) -> None:
    await start(database)
    await consume(database)
    async with database.transaction() as session:
        await flow_states.finish(session, flow_states.digest("state"), now=NOW, install_id="ins_1")
    async with database.transaction() as session:
        found = await flow_states.find(session, "state")
    assert found is not None
    assert (found.install_id, found.failure, found.finished_at) == ("ins_1", None, NOW)
    assert found.code_verifier_ciphertext is None


async def test_open_flows_are_counted_and_old_ones_purged(database: Database) -> None:
    await start(database, "open")
    await start(database, "used")
    await start(database, "old", expires_at=NOW - timedelta(hours=1))
    await consume(database, "used")
    async with database.transaction() as session:
        assert await flow_states.count_open(session, now=NOW) == 1
        await flow_states.purge(session, before=NOW, lost_before=NOW - timedelta(days=90))
    async with database.transaction() as session:
        assert await flow_states.find(session, "old") is None
        assert await flow_states.find(session, "open") is not None
