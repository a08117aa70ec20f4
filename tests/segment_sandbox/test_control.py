from __future__ import annotations

import pytest

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox import PROFILES, Sandbox, SandboxConfig, Switches, UnknownSwitch
from enable_with_segment.segment_sandbox.transcript import redact_body
from tests.segment_sandbox.customer import OWNER, WEB, WEB_DESTINATION, Customer
from tests.segment_sandbox.partner import Partner


async def journey(config: SandboxConfig) -> list[object]:
    """Everything a run of the same steps makes: tokens, ids, and the transcript."""
    sandbox = Sandbox(config)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox.app), base_url="http://s.test") as http:
        customer = Customer(sandbox, http)
        await customer.enable()
        await customer.send("track", {"event": "E", "userId": "u"})
        state = (await http.get("/_sandbox/state?secrets=1")).json()
        requests = (await http.get("/_sandbox/requests")).json()
    return [state, requests, [archived.event for archived in sandbox.ingestion.archive]]


async def test_behaviour_065_a_seed_and_a_frozen_clock_repeat_everything() -> None:
    from datetime import UTC, datetime

    start = datetime(2026, 3, 1, tzinfo=UTC)
    first = await journey(SandboxConfig(seed=7, time_scale=0, start=start))
    assert await journey(SandboxConfig(seed=7, time_scale=0, start=start)) == first
    assert await journey(SandboxConfig(seed=8, time_scale=0, start=start)) != first
    assert await journey(SandboxConfig(time_scale=0, start=start)) != first


async def test_behaviour_066_transcript_records_the_profile(customer: Customer) -> None:
    async def profile_of_next() -> str:
        await customer.http.delete("/_sandbox/requests")
        await customer.http.get("/login")
        return str((await customer.http.get("/_sandbox/requests")).json()["requests"][0]["profile"])

    assert await profile_of_next() == "observed"
    await customer.control("switches", {"install_exists": "page"})
    assert await profile_of_next() == "observed (changed)"
    await customer.control("profile", {"profile": "hostile"})
    assert await profile_of_next() == "hostile"


def test_behaviour_066_every_profile_sets_every_row_of_the_contract() -> None:
    rows = {
        "destination_exists": ("409", "500", "alternating"),
        "install_exists": ("callback", "callback", "token_endpoint_409"),
        "bad_path": ("404", "503_text", "503_text"),
        "connection_mode_answer": ("echo", "unspecified", "unspecified"),
        "refresh_names": ("as_issued", "singular_install", "missing_optional_fields"),
        "refreshed_as": ("uuid", "uuid", "long_opaque"),
        "state_on_validation_error": ("echo", "empty", "empty"),
        "short_state": ("accepted", "accepted", "invalid_state"),
        "settings_header_when_empty": ("absent", "absent", "empty_object"),
        "delivery_timeout_seconds": (5.0, 5.0, 2.0),
        "retry_408_and_423": ("no", "no", "random"),
        "retry_501": ("yes", "no", "random"),
        "duplicate_rate": (0.0, 0.01, 0.2),
        "reorder_rate": (0.0, 0.05, 0.5),
        "consent_deny": ("hidden", "none", "custom_error_with_html"),
        "anomalies": ("none", "mixed", "all"),
    }
    for name, expected in rows.items():
        assert tuple(PROFILES[p].as_dict()[name] for p in ("documented", "observed", "hostile")) == expected


@pytest.mark.parametrize(
    "values",
    [
        {"unknown": 1},
        {"install_exists": "elsewhere"},
        {"duplicate_rate": "often"},
        {"duplicate_rate": -0.1},
        {"lenient_json": 1},
        {"delivery_parallelism": True},
    ],
)
def test_switches_refuse_what_they_do_not_take(values: dict[str, object]) -> None:
    with pytest.raises(UnknownSwitch):
        Switches().changed(values)
    with pytest.raises(UnknownSwitch):
        SandboxConfig(switches=values)


async def test_switches_and_profiles_over_http(customer: Customer) -> None:
    changed = await customer.control("switches", {"delivery_timeout_seconds": 1})
    assert changed["profile"] == "observed (changed)"
    refused = await customer.http.post("/_sandbox/switches", json={"unknown": 1})
    assert refused.status_code == 400
    assert "no switch named 'unknown'" in refused.json()["error"]
    assert (await customer.http.post("/_sandbox/profile", json={"profile": "x"})).status_code == 400


async def test_transcript_counts_and_masks(customer: Customer) -> None:
    app = customer.sandbox.config.apps[0]
    token = await customer.enable("pk_orchid_51f0")
    transcript = await customer.http.get("/_sandbox/requests", params={"path": "/oauth2/token"})
    exchange = transcript.json()["requests"][0]
    assert transcript.json()["count"] == 1
    assert exchange["status"] == 200
    assert exchange["headers"]["authorization"] == "Basic ***"
    assert exchange["body"]["code"] == "***"
    assert exchange["body"]["grant_type"] == "authorization_code"
    everything = (await customer.http.get("/_sandbox/requests")).text
    for secret in (token, app.client_secret, "pk_orchid_51f0"):
        assert secret not in everything
    assert "/_sandbox" not in everything, "control calls are not recorded"
    started = (await customer.http.get("/_sandbox/requests", params={"path": "/oauth2/auth"})).json()
    assert started["requests"][0]["query_keys"] == list(customer.authorize_parameters())


def test_bodies_that_cannot_be_shown_are_measured() -> None:
    assert redact_body(b"\x00\xff", "application/octet-stream") == {"bytes": 2}
    assert redact_body(b"[" * 20_000, "application/json") == {"bytes": 20_000}
    assert redact_body(b"[" * 10_000, "application/json") == {"bytes": 10_000}
    assert redact_body(b"", "application/json") is None


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"route": "(", "fault": {"status": 500}},
        {"route": "x", "fault": {}},
        {"route": "x", "fault": {"status": 99}},
        {"route": "x", "fault": {"status": True}},
        {"route": "x", "fault": {"status": "500"}},
        {"route": "x", "fault": {"explode": True}},
        {"route": "x", "fault": {"status": 500}, "times": 0},
    ],
)
async def test_faults_that_make_no_sense(customer: Customer, rule: dict[str, object]) -> None:
    assert (await customer.http.post("/_sandbox/faults", json=rule)).status_code == 400
    assert (await customer.http.get("/_sandbox/faults")).json() == {"faults": []}


async def test_fault_delay_and_listing(customer: Customer) -> None:
    rule = await customer.control("faults", {"route": "GET /login", "fault": {"delay_seconds": 0.001}})
    assert (rule["times"], rule["used"]) == (1, 0)
    assert (await customer.http.get("/login")).status_code == 200
    listed = (await customer.http.get("/_sandbox/faults")).json()["faults"]
    assert [listed["used"] for listed in listed] == [1]
    both = {"route": "GET /login", "fault": {"delay_seconds": 0.001, "status": 500}}
    await customer.control("faults", both)
    assert (await customer.http.get("/login")).status_code == 500


async def test_state_masks_secrets_unless_asked(delivering: Customer, partner: Partner) -> None:
    masked = await delivering.http.get("/_sandbox/state")
    state = masked.json()
    assert "pk_orchid_51f0" not in masked.text
    assert delivering.sandbox.config.apps[0].client_secret not in masked.text
    assert state["destinations"][0]["config"] == {"apiKey": "***", "region": "us"}
    assert state["destinations"][0]["endpoint"] == partner.url
    assert state["installs"][0]["tokens"][0]["live"] is True
    assert state["workspaces"][0]["sources"][0]["write_keys"] == [delivering.write_key()]
    shown = (await delivering.http.get("/_sandbox/state?secrets=1")).json()
    assert shown["destinations"][0]["config"]["apiKey"] == "pk_orchid_51f0"


async def test_creating_a_world(customer: Customer) -> None:
    await customer.control("users", {"email": "new@fabrikam.example", "name": "New"})
    workspace = {"slug": "fabrikam", "display_name": "Fabrikam", "owners": ["new@fabrikam.example"]}
    await customer.control("workspaces", workspace)
    source = await customer.control("sources", {"workspace": "workspaces/fabrikam", "slug": "web"})
    await customer.control(
        "catalog",
        {
            "slug": "other-crm",
            "display_name": "Other CRM",
            "endpoint": "http://127.0.0.1:1/hook",
            "settings": [
                {"key": "apiKey", "required": True, "sensitive": True},
                {"key": "mode", "type": "select", "choices": ["a", "b"], "default": "a"},
            ],
        },
    )
    app = await customer.control(
        "apps",
        {"slug": "other", "scope": "destination/other-crm", "redirect_uris": ["http://localhost:9000/callback"]},
    )
    page = await customer.consent_page(
        "new@fabrikam.example",
        client_id=str(app["client_id"]),
        redirect_uri="http://localhost:9000/callback",
        scope="destination/other-crm",
    )
    assert str(source["name"]) in page.text
    for name, body, status in (
        ("workspaces", workspace, 409),
        ("sources", {"workspace": "workspaces/fabrikam", "slug": "web"}, 409),
        ("sources", {"workspace": "workspaces/none", "slug": "web"}, 404),
        ("apps", {"slug": "x", "scope": "workspace", "redirect_uris": ["http://x.example"]}, 400),
        ("apps", {"slug": "x", "scope": "workspace", "redirect_uris": "x"}, 400),
        ("apps", {**app, "slug": "x", "scope": "workspace", "redirect_uris": ["https://x.example"]}, 409),
        ("catalog", {"slug": "x", "endpoint": "http://x", "settings": [{"key": "k", "type": "odd"}]}, 400),
        ("catalog", {"slug": "x", "endpoint": "http://x", "settings": "odd"}, 400),
        ("catalog", {"slug": "x", "endpoint": "partner.example/hook"}, 400),
        ("users", {}, 400),
        ("filters", {"destination_name": "none"}, 404),
        ("uninstall", {"install_name": "installs/1"}, 404),
        ("delete", {"workspace": "workspaces/none", "user_id": "u"}, 404),
        ("replay", {"destination_name": "none"}, 404),
        ("clock", {"advance_seconds": -1}, 400),
    ):
        assert (await customer.http.post(f"/_sandbox/{name}", json=body)).status_code == status, (name, body)
    assert (await customer.http.post("/_sandbox/clock", content=b"{")).status_code == 400
    assert (await customer.http.get("/_sandbox/idle?timeout_seconds=soon")).status_code == 400


async def test_reset_starts_again(delivering: Customer, partner: Partner) -> None:
    await delivering.send("track", {"event": "E", "userId": "u"})
    await delivering.control("profile", {"profile": "hostile"})
    await delivering.control("reset")
    state = (await delivering.http.get("/_sandbox/state")).json()
    assert (state["installs"], state["destinations"], state["deliveries"]["total"]) == ([], [], 0)
    assert state["ingestion"] == {"accepted": 0, "dropped": 0}
    assert state["profile"] == "observed"
    await delivering.enable()
    await delivering.send("track", {"event": "E", "userId": "u", "messageId": "after"})
    assert (await delivering.http.get("/_sandbox/idle")).json()["idle"]
    assert partner.events[-1]["messageId"] == "after"


async def test_deliveries_are_found_by_message_id(delivering: Customer) -> None:
    for message_id in ("m-1", "m-2"):
        await delivering.send("track", {"event": "E", "userId": "u", "messageId": message_id})
    await delivering.http.get("/_sandbox/idle")
    found = (await delivering.http.get("/_sandbox/deliveries", params={"message_id": "m-2", "source": WEB})).json()
    assert found["count"] == 1
    assert found["deliveries"][0]["body"]["messageId"] == "m-2"
    assert found["deliveries"][0]["destination"] == WEB_DESTINATION
    events = (await delivering.http.get("/_sandbox/events", params={"source": WEB})).json()
    assert [event["messageId"] for event in events["accepted"]] == ["m-1", "m-2"]
    assert events["dropped"] == []


async def test_idle_says_when_it_is_not(delivering: Customer, partner: Partner) -> None:
    partner.usual.hang = True
    await delivering.send("track", {"event": "E", "userId": "u"})
    answer = (await delivering.http.get("/_sandbox/idle", params={"timeout_seconds": 0.01})).json()
    assert (answer["idle"], answer["pending"]) == (False, 1)


async def test_overview_escapes_what_customers_wrote(customer: Customer) -> None:
    await customer.control("workspaces", {"slug": "x", "display_name": "<b>X</b>", "owners": [OWNER]})
    await customer.control("sources", {"workspace": "workspaces/x", "slug": "s", "display_name": "<i>S</i>"})
    await customer.http.post("/v1/track", json={"event": "E"}, auth=(customer.write_key(), ""))
    await customer.install()
    page = await customer.http.get("/")
    assert page.status_code == 200
    assert "&lt;b&gt;X&lt;/b&gt;" in page.text
    assert "<i>S" not in page.text
    assert "no_user_anon_id" in page.text
    assert "This is not Segment" in page.text


@pytest.mark.parametrize(
    ("action", "fields"), [("replay", {"limit": -1}), ("replay", {"limit": True}), ("test-event", {"event": "text"})]
)
async def test_actions_that_make_no_sense(customer: Customer, action: str, fields: dict[str, object]) -> None:
    await customer.enable()
    body = {"destination_name": WEB_DESTINATION, **fields}
    assert (await customer.http.post(f"/_sandbox/{action}", json=body)).status_code == 400
