from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox import ConfigError, Sandbox, SandboxConfig, acme_app
from tests.segment_sandbox.customer import MOBILE, OWNER, STATE, WEB, Customer, hidden, query_of


async def test_behaviour_001_unknown_client_and_bad_redirect_uri_stay_on_the_sandbox(customer: Customer) -> None:
    unknown = await customer.authorize(client_id="nobody", scope="wrong")
    assert (unknown.status_code, unknown.headers.get("location")) == (400, None)
    assert "invalid_client" in unknown.text

    foreign = await customer.authorize(redirect_uri="https://evil.example/callback", scope="wrong")
    assert (foreign.status_code, foreign.headers.get("location")) == (400, None)
    assert "invalid_request" in foreign.text


async def test_behaviour_001_checks_run_in_order(customer: Customer) -> None:
    both_wrong = await customer.authorize(scope="wrong", response_type="token")
    assert query_of(both_wrong)["error"] == "invalid_scope"
    type_wrong = await customer.authorize(response_type="token")
    assert query_of(type_wrong)["error"] == "unsupported_response_type"


async def test_behaviour_002_validation_errors_have_an_empty_state(customer: Customer) -> None:
    refused = await customer.authorize(scope="workspace")
    query = query_of(refused)
    assert refused.status_code == 302
    assert list(query) == ["error", "error_description", "error_hint", "state"]
    assert query["state"] == ""
    assert "+" in refused.headers["location"], "spaces are form-encoded"

    await customer.control("switches", {"state_on_validation_error": "echo"})
    assert query_of(await customer.authorize(scope="workspace"))["state"] == STATE


async def test_behaviour_002_repeated_parameters_are_invalid(customer: Customer) -> None:
    query = urlencode([*customer.authorize_parameters().items(), ("state", "another")])
    refused = await customer.http.get(f"/oauth2/auth?{query}")
    assert query_of(refused)["error"] == "invalid_request"


async def test_behaviour_003_short_state_is_refused_when_switched_on(customer: Customer) -> None:
    accepted = await customer.authorize(state="abc")
    assert accepted.headers["location"].startswith("/login?")
    await customer.control("switches", {"short_state": "invalid_state"})
    assert query_of(await customer.authorize(state="abc"))["error"] == "invalid_state"


async def test_behaviour_004_login_when_there_is_no_session(customer: Customer) -> None:
    started = await customer.authorize()
    assert re.fullmatch(r"/login\?login_challenge=[0-9a-f]{32}", started.headers["location"])
    back = await customer.log_in(OWNER, started.headers["location"])
    assert back.headers["location"].startswith("/oauth2/auth?")
    cookie = back.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert (await customer.authorize()).headers["location"].startswith("/authorize?"), "the session is kept"


async def test_behaviour_004_log_out_leads_to_another_user(customer: Customer) -> None:
    page = await customer.consent_page("member@northwind.example")
    out = await customer.http.post("/logout", data={"consent_challenge": hidden(page, "consent_challenge")})
    back = await customer.log_in(OWNER, out.headers["location"])
    consent = await customer.http.get(back.headers["location"])
    page = await customer.http.get(consent.headers["location"])
    assert f"Logged in as {OWNER}" in page.text


async def test_behaviour_004_unknown_user_cannot_log_in(customer: Customer) -> None:
    answer = await customer.http.post("/login", data={"user": "stranger@mail.example"})
    assert answer.status_code == 400
    assert "set-cookie" not in answer.headers


async def test_behaviour_005_consent_page_shows_what_the_owner_owns(customer: Customer) -> None:
    page = await customer.consent_page()
    assert "Authorize acme-crm" in page.text
    assert f'value="{WEB}"' in page.text
    assert f'value="{MOBILE}"' in page.text
    assert "contoso" not in page.text.lower()
    assert page.text.count('name="decision"') == 1, "there is an Allow and no Deny"
    assert "<script" not in page.text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


async def test_behaviour_005_a_member_has_nothing_to_choose(customer: Customer) -> None:
    page = await customer.consent_page("member@northwind.example")
    assert "<select" not in page.text
    assert "Workspace Owner" in page.text
    answered = await customer.answer(page, source=WEB, decision="allow")
    assert answered.status_code == 400


async def test_behaviour_005_source_must_belong_to_the_workspace(customer: Customer) -> None:
    page = await customer.consent_page()
    answered = await customer.answer(
        page, workspace="workspaces/northwind", source="workspaces/contoso-labs/sources/website"
    )
    assert answered.status_code == 400
    again = await customer.answer(page, workspace="workspaces/northwind", source=WEB)
    assert again.status_code == 302, "a wrong choice does not use up the challenge"


async def test_behaviour_005_deny_ends_in_access_denied(customer: Customer) -> None:
    await customer.control("switches", {"consent_deny": "hidden"})
    page = await customer.consent_page()
    assert 'value="deny" hidden' in page.text
    finished = await customer.http.get((await customer.answer(page, decision="deny")).headers["location"])
    query = query_of(finished)
    assert (query["error"], query["state"]) == ("access_denied", STATE)


async def test_behaviour_005_hostile_deny_carries_html(customer: Customer) -> None:
    await customer.control("profile", {"profile": "hostile"})
    page = await customer.consent_page()
    finished = await customer.http.get((await customer.answer(page, decision="deny")).headers["location"])
    assert "<script>" in query_of(finished)["error_hint"]


async def test_behaviour_006_challenge_is_32_hex_and_works_once(customer: Customer) -> None:
    page = await customer.consent_page()
    assert re.fullmatch(r"[0-9a-f]{32}", hidden(page, "consent_challenge"))
    first = await customer.answer(page, source=WEB)
    assert (await customer.answer(page, source=WEB)).status_code == 400
    assert (await customer.http.get(first.headers["location"])).status_code == 302
    assert (await customer.http.get(first.headers["location"])).status_code == 400, "the verifier works once too"


async def test_behaviour_006_challenge_expires_after_ten_minutes(customer: Customer) -> None:
    page = await customer.consent_page()
    await customer.control("clock", {"advance_seconds": 600})
    assert (await customer.answer(page, source=WEB)).status_code == 400


async def test_behaviour_006_challenge_belongs_to_its_user(customer: Customer) -> None:
    page = await customer.consent_page()
    await customer.http.post("/login", data={"user": "owner@contoso.example"})
    assert (await customer.answer(page, source=WEB)).status_code == 400


async def test_behaviour_007_callback_parameters(customer: Customer) -> None:
    callback = await customer.allow()
    assert [key for key, _ in callback.params.multi_items()] == ["code", "scope", "state"]
    assert re.fullmatch(r"[\w-]{43}\.[\w-]{43}", callback.params["code"])
    assert callback.params["state"] == STATE
    assert b"scope=destination%2Facme-crm" in callback.query


async def test_behaviour_007_the_redirect_uris_own_query_is_kept() -> None:
    uri = "https://partner.example/callback?env=live"
    config = SandboxConfig(apps=(acme_app(redirect_uris=(uri,)),))
    sandbox = Sandbox(config)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox.app), base_url="http://s.test") as http:
        callback = await Customer(sandbox, http).allow()
    assert [key for key, _ in callback.params.multi_items()] == ["env", "code", "scope", "state"]


@pytest.mark.parametrize(
    "uri",
    [
        "http://partner.example/callback",
        "https://partner.example/callback#part",
        "/callback",
        "ftp://partner.example/",
        "http://localhost.evil.example/",
    ],
)
def test_behaviour_011_redirect_uris_that_cannot_be_registered(uri: str) -> None:
    with pytest.raises(ConfigError):
        acme_app(redirect_uris=(uri,))


def test_behaviour_011_at_most_five_redirect_uris() -> None:
    uris = tuple(f"http://localhost:{port}/callback" for port in range(8001, 8007))
    assert len(acme_app(redirect_uris=uris[:5]).redirect_uris) == 5
    with pytest.raises(ConfigError):
        acme_app(redirect_uris=uris)
    with pytest.raises(ConfigError):
        acme_app(redirect_uris=())
