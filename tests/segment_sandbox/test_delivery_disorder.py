"""What makes deliveries hard to take: duplicates, another order, odd events, and whole profiles of them."""

from __future__ import annotations

import random

import pytest

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox import PROFILES, Sandbox, SandboxConfig, acme_crm
from enable_with_segment.segment_sandbox.delivery.anomalies import go_time, vary
from enable_with_segment.segment_sandbox.delivery.request import basic
from tests.segment_sandbox.customer import TRACK, Customer
from tests.segment_sandbox.partner import Partner


async def test_behaviour_054_duplicates(delivering: Customer, partner: Partner) -> None:
    await delivering.control("switches", {"duplicate_rate": 1.0})
    await delivering.send("track", TRACK)
    await delivering.idle()
    assert len(partner.received) == 2
    assert partner.received[0].body == partner.received[1].body


async def test_behaviour_054_reordering(delivering: Customer, partner: Partner) -> None:
    await delivering.control("switches", {"reorder_rate": 0.5, "delivery_parallelism": 1})
    batch = [{"type": "track", "userId": "u", "event": "E", "messageId": f"{n:02}"} for n in range(40)]
    await delivering.send("batch", {"batch": batch})
    await delivering.idle()
    ids = [str(event["messageId"]) for event in partner.events]
    assert sorted(ids) == [f"{n:02}" for n in range(40)]
    assert ids != sorted(ids)


def test_behaviour_056_anomalies() -> None:
    dice = random.Random(1)  # noqa: S311
    event: dict[str, object] = {
        "type": "identify",
        "messageId": "m-1",
        "userId": "u",
        "version": 2,
        "context": {"ip": "203.0.113.24"},
        "integrations": {},
        "traits": {"firstName": "Karin"},
        "properties": {"price": 39.95, "gift": True},
        "originalTimestamp": "2026-03-01T10:00:00.123Z",
    }
    before = dict(event)
    assert vary(event, "none", dice) == event
    assert vary(event, "all", dice) == {
        "type": "identify",
        "userId": "u",
        "version": "1.1",
        "context": None,
        "integrations": None,
        "traits": {"first_name": "Karin"},
        "properties": {"price": "39.95", "gift": True},
        "originalTimestamp": "2026-03-01 10:00:00.123000907 +0000 UTC m=+51820.117442901",
    }
    mixed = [vary(event, "mixed", dice) for _ in range(200)]
    assert all(varied["messageId"] == "m-1" and varied["context"] == event["context"] for varied in mixed)
    assert 0 < sum(varied != event for varied in mixed) < 100
    assert event == before, "the archive's copy is not touched"
    assert go_time("not a time") == "not a time"


@pytest.mark.parametrize("profile", list(PROFILES))
async def test_the_whole_journey_in_every_profile(profile: str, partner: Partner) -> None:
    sandbox = Sandbox(SandboxConfig(profile=profile, catalog=(acme_crm(partner.url),), seed=1, time_scale=0))
    app = sandbox.config.apps[0]
    async with sandbox.listening() as base_url, httpx.AsyncClient(base_url=base_url) as http:
        customer = Customer(sandbox, http)
        installed = await customer.install()
        refreshed = await http.get(
            f"/v1beta/{installed['install_name']}/token", auth=(app.client_id, app.client_secret)
        )
        token = refreshed.json()["access_token"]
        assert (await customer.create_destination(token, "pk_orchid_51f0")).json()["enabled"] is True
        for number in range(5):
            await customer.send("track", {**TRACK, "messageId": f"m-{number}"})
        await customer.idle()
    assert len(partner.received) >= 5
    assert {event["type"] for event in partner.events} == {"track"}
    assert {received.header("authorization") for received in partner.received} == {basic("pk_orchid_51f0")}
