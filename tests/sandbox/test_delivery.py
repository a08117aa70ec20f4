from __future__ import annotations

import base64
import itertools
import json
import random
import socket
from datetime import datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment_sandbox import PROFILES, Sandbox, SandboxConfig, Switches, acme_crm
from segment_sandbox.anomalies import go_time, vary
from segment_sandbox.delivery_request import allowed_by_integrations, basic, settings_header
from segment_sandbox.outcomes import outcome_of_error, outcome_of_status, retry_delay
from tests.sandbox.customer import WEB, WEB_DESTINATION, Customer, bearer
from tests.sandbox.partner import Answer, Partner

TRACK = {"event": "Signed Up", "userId": "cust_20418", "messageId": "m-1", "properties": {"plan": "team"}}


async def idle(customer: Customer, *, retries: bool = True) -> dict[str, object]:
    query = {"timeout_seconds": "5", "retries": "1" if retries else "0"}
    answer = (await customer.http.get("/_sandbox/idle", params=query)).json()
    assert answer["idle"], answer
    assert isinstance(answer, dict)
    return answer


async def deliveries(customer: Customer) -> list[dict[str, object]]:
    found = (await customer.http.get("/_sandbox/deliveries")).json()["deliveries"]
    assert isinstance(found, list)
    return found


async def test_behaviour_046_headers_byte_for_byte(delivering: Customer, partner: Partner) -> None:
    await delivering.send("track", TRACK)
    await idle(delivering)
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
    await idle(delivering)
    assert partner.received[0].header("authorization") == basic("rotated")


async def test_behaviour_047_one_event_per_request_over_kept_connections(
    delivering: Customer, partner: Partner
) -> None:
    await delivering.control("switches", {"delivery_parallelism": 2})
    batch = [{"type": "track", "userId": "u", "event": "E", "messageId": f"m-{n}"} for n in range(20)]
    await delivering.send("batch", {"batch": batch})
    await idle(delivering)
    assert {event["messageId"] for event in partner.events} == {f"m-{n}" for n in range(20)}
    assert len(partner.received) == 20
    assert partner.connections <= 2


async def test_behaviour_048_disabled_destination_gets_nothing(delivering: Customer, partner: Partner) -> None:
    delivering.sandbox.state.world.destinations[WEB_DESTINATION].enabled = False
    await delivering.send("track", TRACK)
    await idle(delivering)
    assert partner.received == []
    assert await deliveries(delivering) == []


async def test_behaviour_048_filters_and_integrations(delivering: Customer, partner: Partner) -> None:
    await delivering.control(
        "filters", {"destination_name": WEB_DESTINATION, "drop_types": ["page"], "drop_events": ["Noise"]}
    )
    await delivering.send("page", {"userId": "u", "name": "Home"})
    await delivering.send("track", {"userId": "u", "event": "Noise"})
    await delivering.send("track", {"userId": "u", "event": "E", "integrations": {"All": False}})
    await delivering.send("track", {"userId": "u", "event": "E", "integrations": {"Acme CRM": False}})
    await idle(delivering)
    assert partner.received == []
    assert [(delivery["state"], delivery["code"]) for delivery in await deliveries(delivering)] == [
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
    await idle(delivering)
    codes = [delivery["code"] for delivery in await deliveries(delivering)]
    assert sorted(map(str, codes)) == [
        "INVALID_SETTINGS",
        "MESSAGE_SENT_CLIENT_SIDE",
        "UNSUPPORTED_EVENT_TYPE",
        "delivered",
    ]
    assert len(partner.received) == 1


async def test_behaviour_049_a_slow_answer_is_tried_again(delivering: Customer, partner: Partner) -> None:
    await delivering.control("switches", {"delivery_timeout_seconds": 0.05})
    partner.answers.append(Answer(hang=True))
    await delivering.send("track", TRACK)
    await idle(delivering, retries=False)
    assert [d["code"] for d in await deliveries(delivering)] == ["errors.awaiting-retry.ECONNABORTED"]
    await delivering.control("switches", {"delivery_timeout_seconds": 5.0})
    await delivering.control("clock", {"advance_seconds": 23})
    await idle(delivering)
    assert [event["messageId"] for event in partner.events] == ["m-1", "m-1"], "behaviour 54: delivered twice"


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [
        (200, "succeeded", "delivered"),
        (204, "succeeded", "delivered"),
        (307, "discarded", "307"),
        (400, "discarded", "errors.discarded.400"),
        (401, "discarded", "errors.discarded.401"),
        (403, "discarded", "errors.discarded.403"),
        (404, "discarded", "404"),
        (408, "discarded", "408"),
        (413, "discarded", "413"),
        (423, "discarded", "423"),
        (429, "awaiting_retry", "errors.awaiting-retry.429"),
        (500, "awaiting_retry", "errors.awaiting-retry.5xx"),
        (501, "discarded", "UNSUPPORTED_EVENT_TYPE"),
        (502, "awaiting_retry", "errors.awaiting-retry.5xx"),
        (503, "awaiting_retry", "errors.awaiting-retry.5xx"),
        (504, "awaiting_retry", "errors.awaiting-retry.5xx"),
        (507, "awaiting_retry", "errors.awaiting-retry.5xx"),
    ],
)
def test_behaviour_050_status_matrix(status: int, state: str, code: str) -> None:
    outcome = outcome_of_status(status, Switches(), random.Random(1))  # noqa: S311
    assert (outcome.state, outcome.code) == (state, code)


def test_behaviour_050_contradicted_statuses_are_switches() -> None:
    dice = random.Random(1)  # noqa: S311
    yes = Switches().changed({"retry_408_and_423": "yes", "retry_501": "yes", "retry_505_and_up": "no"})
    assert outcome_of_status(408, yes, dice).state == "awaiting_retry"
    assert outcome_of_status(501, yes, dice).state == "awaiting_retry"
    assert outcome_of_status(505, yes, dice).state == "discarded"
    both = {outcome_of_status(423, PROFILES["hostile"], dice).state for _ in range(50)}
    assert both == {"awaiting_retry", "discarded"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx.ReadTimeout(""), "ECONNABORTED"),
        (TimeoutError(), "ECONNABORTED"),
        (httpx.ReadError(""), "ECONNRESET"),
        (httpx.RemoteProtocolError(""), "ECONNRESET"),
        (httpx.ConnectError(""), "EHOSTUNREACH"),
        (httpx.InvalidURL(""), "INTERNAL"),
    ],
)
def test_behaviour_050_errors_are_retried(error: Exception, code: str) -> None:
    outcome = outcome_of_error(error)
    assert (outcome.state, outcome.code) == ("awaiting_retry", f"errors.awaiting-retry.{code}")


async def test_behaviour_050_refused_and_reset_connections(delivering: Customer, partner: Partner) -> None:
    partner.answers.append(Answer(drop=True))
    await delivering.send("track", TRACK)
    await idle(delivering, retries=False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        await delivering.control(
            "catalog", {"slug": "acme-crm", "endpoint": f"http://127.0.0.1:{unused.getsockname()[1]}/"}
        )
        await delivering.send("track", {**TRACK, "messageId": "m-2"})
        await idle(delivering, retries=False)
    codes = [delivery["code"] for delivery in await deliveries(delivering)]
    assert codes == ["errors.awaiting-retry.ECONNRESET", "errors.awaiting-retry.ECONNREFUSED"]


async def test_behaviour_051_ten_attempts_then_discarded(delivering: Customer, partner: Partner) -> None:
    partner.usual = Answer(503)
    await delivering.send("track", TRACK)
    for _ in range(10):
        await idle(delivering, retries=False)
        await delivering.control("clock", {"advance_seconds": 96 * 60})
    summary = await idle(delivering)
    assert len(partner.received) < 10, "jumps of 96 minutes leave the window of 240 before the tenth"
    assert summary["discarded"] == 1


async def test_behaviour_051_the_whole_schedule(delivering: Customer, partner: Partner) -> None:
    partner.usual = Answer(503)
    await delivering.send("track", TRACK)
    pending = delivering.sandbox.deliveries.pending
    while pending:
        await idle(delivering, retries=False)
        due = [delivery.next_attempt_at for delivery in pending.values() if delivery.next_attempt_at]
        if due:
            wait = (due[0] - delivering.sandbox.state.now()).total_seconds()
            await delivering.control("clock", {"advance_seconds": wait})
    delivery = (await deliveries(delivering))[0]
    attempts = delivery["attempts"]
    assert isinstance(attempts, list)
    assert delivery["state"] == "discarded"
    assert [attempt["number"] for attempt in attempts] == list(range(1, len(partner.received) + 1))
    assert len(attempts) == 10
    times = [datetime.fromisoformat(attempt["at"]) for attempt in attempts]
    delays = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)]
    for number, delay in enumerate(delays):
        assert 0.5 <= delay / (15 * 2**number) <= 1.51


@given(st.integers(1, 9), st.integers())
def test_behaviour_051_delays_and_their_jitter(made: int, seed: int) -> None:
    delay = retry_delay(made, random.Random(seed))  # noqa: S311
    assert 0.5 <= delay / (15 * 2 ** (made - 1)) <= 1.5


async def test_behaviour_051_retry_after_counts_only_when_switched_on(delivering: Customer, partner: Partner) -> None:
    partner.usual = Answer(429, headers={"Retry-After": "7000"})
    await delivering.send("track", TRACK)
    await idle(delivering, retries=False)
    await delivering.control("switches", {"honour_retry_after": True})
    await delivering.send("track", {**TRACK, "messageId": "m-2"})
    await idle(delivering, retries=False)
    now = delivering.sandbox.state.now()
    waits = [
        (delivery.next_attempt_at - now).total_seconds()
        for delivery in delivering.sandbox.deliveries.pending.values()
        if delivery.next_attempt_at
    ]
    assert waits[0] <= 22.5
    assert waits[1] == 7000


async def test_behaviour_052_successes_by_attempt(delivering: Customer, partner: Partner) -> None:
    partner.answers.append(Answer(500))
    await delivering.send("track", TRACK)
    await delivering.send("track", {**TRACK, "messageId": "m-2"})
    await idle(delivering, retries=False)
    await delivering.control("clock", {"advance_seconds": 23})
    summary = await idle(delivering)
    assert (summary["successes.attempt.1"], summary["successes.attempt.2"]) == (1, 1)


async def test_behaviour_053_messages_only_from_application_json(delivering: Customer, partner: Partner) -> None:
    body = json.dumps({"message": "Unknown API key."}).encode()
    partner.answers.extend(
        [
            Answer(401, body),
            Answer(401, body, "application/json; charset=utf-8"),
            Answer(401, body, "text/plain"),
            Answer(401, b"{", "application/json"),
            Answer(401, b'{"message": 7}', "application/json"),
        ]
    )
    await delivering.control("switches", {"delivery_parallelism": 1, "reorder_rate": 0.0})
    for number in range(5):
        await delivering.send("track", {**TRACK, "messageId": f"m-{number}"})
    await idle(delivering)
    attempts = [delivery.attempts[0] for delivery in delivering.sandbox.deliveries.log]
    assert [attempt.message for attempt in attempts] == ["Unknown API key.", "Unknown API key.", None, None, None]
    assert "Unknown API key." in (await delivering.http.get("/")).text


async def test_behaviour_054_duplicates(delivering: Customer, partner: Partner) -> None:
    await delivering.control("switches", {"duplicate_rate": 1.0})
    await delivering.send("track", TRACK)
    await idle(delivering)
    assert len(partner.received) == 2
    assert partner.received[0].body == partner.received[1].body


async def test_behaviour_054_reordering(delivering: Customer, partner: Partner) -> None:
    await delivering.control("switches", {"reorder_rate": 0.5, "delivery_parallelism": 1})
    batch = [{"type": "track", "userId": "u", "event": "E", "messageId": f"{n:02}"} for n in range(40)]
    await delivering.send("batch", {"batch": batch})
    await idle(delivering)
    ids = [str(event["messageId"]) for event in partner.events]
    assert sorted(ids) == [f"{n:02}" for n in range(40)]
    assert ids != sorted(ids)


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


async def test_behaviour_058_replay(delivering: Customer, partner: Partner) -> None:
    await delivering.send("track", {**TRACK, "timestamp": "2020-01-01T00:00:00Z"})
    await delivering.send("identify", {"userId": "u"})
    await idle(delivering)
    delivering.sandbox.state.world.destinations[WEB_DESTINATION].enabled = False
    replay = await delivering.control("replay", {"destination_name": WEB_DESTINATION, "type": "track"})
    assert replay == {"replayed": 1, "filtered": 0}
    await idle(delivering)
    again = partner.events[2]
    assert (again["messageId"], again["timestamp"]) == ("m-1", "2020-01-01T00:00:00.000Z")
    assert again["integrations"] == {"All": False, "Acme CRM": True}


async def test_behaviour_059_delete_reaches_every_connected_destination(delivering: Customer, partner: Partner) -> None:
    partner.answers.append(Answer(503))
    ordered = await delivering.control("delete", {"workspace": "workspaces/northwind", "user_id": "cust_20418"})
    assert ordered["overall_status"] == "RUNNING"
    await idle(delivering, retries=False)
    await delivering.control("clock", {"advance_seconds": 23})
    await idle(delivering)
    message = partner.events[1]
    project = delivering.sandbox.state.world.sources[WEB].project_id
    assert (message["type"], message["userId"], message["projectId"]) == ("delete", "cust_20418", project)
    assert message["context"] is message["integrations"] is None
    assert str(message["messageId"]).startswith(f"delete-{ordered['id']}::job-1-")
    assert str(message["originalTimestamp"]).endswith("m=+51820.117442901")
    regulations = (await delivering.http.get("/_sandbox/regulations")).json()["regulations"]
    assert regulations[0]["overall_status"] == "FINISHED"


async def test_behaviour_059_a_refused_delete_has_failed(delivering: Customer, partner: Partner) -> None:
    partner.usual = Answer(404)
    await delivering.control("delete", {"workspace": "workspaces/northwind", "user_id": "u"})
    await idle(delivering)
    regulations = (await delivering.http.get("/_sandbox/regulations")).json()["regulations"]
    assert regulations[0]["overall_status"] == "FAILED"


async def test_behaviour_059_fan_out_is_a_switch(delivering: Customer, partner: Partner) -> None:
    await delivering.control("switches", {"delete_fan_out": False})
    await delivering.control("delete", {"workspace": "workspaces/northwind", "user_id": "u"})
    await idle(delivering)
    assert partner.received == []


async def test_behaviour_060_test_suite(delivering: Customer, partner: Partner) -> None:
    order = {"destination_name": WEB_DESTINATION, "api_key": "typed-in"}
    green = await delivering.control("test-suite", order)
    assert green["verdict"] == "green"
    kinds = ["page", "page", "identify", "track", "group", "track", "track", "screen"]
    assert [event["type"] for event in partner.events] == kinds
    assert all("messageId" not in event and "context" not in event for event in partner.events)
    assert partner.received[0].header("authorization") == basic("typed-in")

    partner.answers.append(Answer(501, b'{"message": "no pages"}'))
    assert (await delivering.control("test-suite", order))["verdict"] == "yellow"
    partner.answers.append(Answer(400))
    assert (await delivering.control("test-suite", order))["verdict"] == "red"


async def test_behaviour_061_test_event(delivering: Customer, partner: Partner) -> None:
    await delivering.control("filters", {"destination_name": WEB_DESTINATION, "drop_types": ["track"]})
    partner.answers.append(Answer(503, b'{"message": "Later"}'))
    tested = await delivering.control("test-event", {"destination_name": WEB_DESTINATION})
    request, response = tested["request"], tested["response"]
    assert isinstance(request, dict)
    assert isinstance(response, dict)
    assert request["headers"]["Authorization"] == "Basic ***"
    assert (response["status"], response["message"]) == (503, "Later")
    await idle(delivering)
    assert len(partner.received) == 1, "there is no retry"
    event = partner.events[0]
    assert event["event"] == "Test Event Name"
    assert "context" not in event
    assert event["email"]


async def test_events_of_another_source_stay_there(delivering: Customer, partner: Partner) -> None:
    await delivering.send("track", TRACK, "workspaces/northwind/sources/mobile-prod")
    await idle(delivering)
    assert partner.received == []


async def test_a_delivery_is_discarded_when_its_destination_goes_away(delivering: Customer, partner: Partner) -> None:
    partner.usual = Answer(503)
    await delivering.send("track", TRACK)
    await idle(delivering, retries=False)
    del delivering.sandbox.state.world.destinations[WEB_DESTINATION]
    await delivering.control("clock", {"advance_seconds": 23})
    await idle(delivering)
    assert [d["code"] for d in await deliveries(delivering)] == ["destination_disabled"]


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
        await idle(customer)
    assert len(partner.received) >= 5
    assert {event["type"] for event in partner.events} == {"track"}
    assert {received.header("authorization") for received in partner.received} == {basic("pk_orchid_51f0")}


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
        await idle(customer)
    assert [json.loads(body)["messageId"] for body in bodies] == ["m-1"]


async def test_the_clock_runs_faster(partner: Partner) -> None:
    """At 100,000 sandbox seconds a second, a retry after half a minute comes by itself."""
    partner.answers.append(Answer(503))
    config = SandboxConfig(profile="documented", catalog=(acme_crm(partner.url),), time_scale=100_000)
    sandbox = Sandbox(config)
    async with sandbox.listening() as base_url, httpx.AsyncClient(base_url=base_url) as http:
        customer = Customer(sandbox, http)
        sandbox.state.clock.set_scale(0)
        await customer.enable()
        await customer.control("clock", {"time_scale": 100_000})
        await customer.send("track", TRACK)
        summary = await idle(customer)
    assert summary["successes.attempt.2"] == 1
