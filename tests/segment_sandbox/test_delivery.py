"""What the sandbox delivers, in which form, and to whom."""

from __future__ import annotations

import base64
import json

import pytest

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox import Sandbox, SandboxConfig, Switches, acme_crm
from enable_with_segment.segment_sandbox.delivery.request import allowed_by_integrations, basic, settings_header
from tests.segment_sandbox.customer import TRACK, WEB_DESTINATION, Customer, bearer
from tests.segment_sandbox.partner import Partner


async def test_behaviour_046_headers_byte_for_byte(delivering: Customer, partner: Partner) -> None:
    await delivering.send("track", TRACK)
    await delivering.idle()
    received = partner.received[0]
    settings = base64.b64encode(b'{"region":"us"}').decode()
    assert received.line == "POST /subscriptions/acme-crm HTTP/1.1"
    assert received.headers == [
        ("Host", httpx.URL(partner.url).netloc.decode()),
        ("Accept", "*/*"),
        ("Authorization", "Basic cGtfb3JjaGlkXzUxZjA6"),
        ("Cache-Control", "no-cache"),
        ("Connection", "Keep-Alive"),
        ("Content-Length", str(len(received.body))),
        ("Content-Type", "application/json"),
        ("User-Agent", "Segment.io/1.0"),
        ("X-Segment-Settings", settings),
    ]
    assert received.event["messageId"] == "m-1"
    assert received.event["properties"] == {"plan": "team"}


def test_behaviour_046_the_contracts_vectors() -> None:
    assert basic("pk_orchid_51f0") == "Basic cGtfb3JjaGlkXzUxZjA6"
    settings = {"region": "eu", "sendAnonymous": True, "eventPrefix": "web_"}
    expected = "eyJyZWdpb24iOiJldSIsInNlbmRBbm9ueW1vdXMiOnRydWUsImV2ZW50UHJlZml4Ijoid2ViXyJ9"
    assert settings_header(settings, Switches()) == expected
    empty = {"absent": None, "empty": "", "empty_object": "e30=", "plain": "{}"}
    for choice, value in empty.items():
        assert settings_header({}, Switches().changed({"settings_header_when_empty": choice})) == value


async def test_behaviour_046_the_key_in_force_is_used(delivering: Customer, partner: Partner) -> None:
    await delivering.http.post("/_sandbox/expire-tokens")
    app = delivering.sandbox.config.apps[0]
    install = next(iter(delivering.sandbox.state.world.installs))
    refreshed = await delivering.http.get(f"/v1beta/{install}/token", auth=(app.client_id, app.client_secret))
    config = [{"name": f"{WEB_DESTINATION}/config/apiKey", "value": "rotated"}]
    await delivering.http.patch(
        f"/v1beta/{WEB_DESTINATION}",
        json={"destination": {"config": config}, "update_mask": {"paths": ["destination.config"]}},
        headers=bearer(refreshed.json()["access_token"]),
    )
    await delivering.send("track", TRACK)
    await delivering.idle()
    assert partner.received[0].header("authorization") == basic("rotated")


async def test_behaviour_047_one_event_per_request_over_kept_connections(
    delivering: Customer, partner: Partner
) -> None:
    await delivering.control("switches", {"delivery_parallelism": 2})
    batch = [{"type": "track", "userId": "u", "event": "E", "messageId": f"m-{n}"} for n in range(20)]
    await delivering.send("batch", {"batch": batch})
    await delivering.idle()
    assert {event["messageId"] for event in partner.events} == {f"m-{n}" for n in range(20)}
    assert len(partner.received) == 20
    assert partner.connections <= 2


async def test_behaviour_048_disabled_destination_gets_nothing(delivering: Customer, partner: Partner) -> None:
    delivering.sandbox.state.world.destinations[WEB_DESTINATION].enabled = False
    await delivering.send("track", TRACK)
    await delivering.idle()
    assert partner.received == []
    assert await delivering.deliveries() == []


async def test_behaviour_048_filters_and_integrations(delivering: Customer, partner: Partner) -> None:
    await delivering.control(
        "filters", {"destination_name": WEB_DESTINATION, "drop_types": ["page"], "drop_events": ["Noise"]}
    )
    await delivering.send("page", {"userId": "u", "name": "Home"})
    await delivering.send("track", {"userId": "u", "event": "Noise"})
    await delivering.send("track", {"userId": "u", "event": "E", "integrations": {"All": False}})
    await delivering.send("track", {"userId": "u", "event": "E", "integrations": {"Acme CRM": False}})
    await delivering.idle()
    assert partner.received == []
    assert [(delivery["state"], delivery["code"]) for delivery in await delivering.deliveries()] == [
        ("filtered", "FILTERED_BY_RULES"),
        ("filtered", "FILTERED_BY_RULES"),
        ("filtered", "FILTERED_BY_INTEGRATIONS_OBJECT"),
        ("filtered", "FILTERED_BY_INTEGRATIONS_OBJECT"),
    ]


@pytest.mark.parametrize(
    ("integrations", "allowed"),
    [
        (None, True),
        ({}, True),
        ({"All": True}, True),
        ({"All": False}, False),
        ({"All": False, "Acme CRM": True}, True),
        ({"All": False, "acme crm": True}, False),
        ({"All": False, "Acme CRM": {"option": 1}}, True),
        ({"Acme CRM": False}, False),
    ],
)
def test_behaviour_048_integrations_object(integrations: object, allowed: bool) -> None:
    assert allowed_by_integrations(integrations, "Acme CRM") is allowed


async def test_behaviour_048_channel_type_and_settings(delivering: Customer, partner: Partner) -> None:
    await delivering.control("catalog", {"slug": "acme-crm", "accepts_client_channel": False})
    browser = {"userId": "u", "event": "E", "channel": "client"}
    await delivering.send("track", browser)
    await delivering.send("track", {**browser, "_metadata": {"bundled": [], "unbundled": ["Acme CRM"]}})
    await delivering.control("catalog", {"slug": "acme-crm", "supported_types": ["identify"]})
    await delivering.send("track", {"userId": "u", "event": "E"})
    delivering.sandbox.state.world.destinations[WEB_DESTINATION].config["apiKey"] = ""
    await delivering.send("identify", {"userId": "u"})
    await delivering.idle()
    codes = [delivery["code"] for delivery in await delivering.deliveries()]
    assert sorted(map(str, codes)) == [
        "INVALID_SETTINGS",
        "MESSAGE_SENT_CLIENT_SIDE",
        "UNSUPPORTED_EVENT_TYPE",
        "delivered",
    ]
    assert len(partner.received) == 1


async def test_behaviour_055_plain_http_beyond_loopback_is_a_switch(config: SandboxConfig) -> None:
    sandbox = Sandbox(
        SandboxConfig(
            profile="documented",
            switches={"allow_plain_http": False},
            catalog=(acme_crm("http://partner.invalid/hook"),),
            time_scale=0,
        )
    )
    async with sandbox.listening() as base_url, httpx.AsyncClient(base_url=base_url) as http:
        customer = Customer(sandbox, http)
        await customer.enable()
        tested = await customer.control("test-event", {"destination_name": WEB_DESTINATION})
    assert tested["response"] is None
    assert tested["error"] == "http://partner.invalid/hook has no TLS."


async def test_events_of_another_source_stay_there(delivering: Customer, partner: Partner) -> None:
    await delivering.send("track", TRACK, "workspaces/northwind/sources/mobile-prod")
    await delivering.idle()
    assert partner.received == []


async def test_deliveries_in_process() -> None:
    """Another application's endpoint can take deliveries without any socket."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    bodies: list[bytes] = []

    async def take(request: Request) -> Response:
        bodies.append(await request.body())
        return Response(status_code=202)

    partner = Starlette(routes=[Route("/subscriptions/acme-crm", take, methods=["POST"])])
    sandbox = Sandbox(SandboxConfig(profile="documented"), delivery_transport=httpx.ASGITransport(partner))
    transport = httpx.ASGITransport(sandbox.app)
    async with sandbox.running(), httpx.AsyncClient(transport=transport, base_url="http://s.test") as http:
        customer = Customer(sandbox, http)
        await customer.enable()
        await customer.send("track", TRACK)
        await customer.idle()
    assert [json.loads(body)["messageId"] for body in bodies] == ["m-1"]
