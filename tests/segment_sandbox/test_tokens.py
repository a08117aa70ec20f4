from __future__ import annotations

import base64
import hashlib
import re
from urllib.parse import quote

import pytest

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox import AppSeed, Sandbox, SandboxConfig, acme_app
from tests.segment_sandbox.customer import MOBILE, WEB, Customer, bearer

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


async def refresh(customer: Customer, install: object, secret: str | None = None) -> httpx.Response:
    app = customer.sandbox.config.apps[0]
    return await customer.http.get(f"/v1beta/{install}/token", auth=(app.client_id, secret or app.client_secret))


async def test_behaviour_008_token_endpoint_wants_a_form_and_basic(customer: Customer) -> None:
    app = customer.sandbox.config.apps[0]
    as_json = await customer.http.post("/oauth2/token", json={}, auth=(app.client_id, app.client_secret))
    assert (as_json.status_code, as_json.json()["error"]) == (400, "invalid_request")
    assert as_json.json()["status_code"] == 400
    assert as_json.headers["content-type"] == "application/json;charset=UTF-8"
    assert as_json.headers["cache-control"] == "no-store"

    in_body = await customer.http.post(
        "/oauth2/token", data={"client_id": app.client_id, "client_secret": app.client_secret}
    )
    assert (in_body.status_code, in_body.json()["error"]) == (401, "invalid_client")
    nothing = await customer.http.post("/oauth2/token", data={"grant_type": "authorization_code"})
    assert (nothing.status_code, nothing.json()["error"]) == (400, "invalid_request")
    wrong = await customer.http.post("/oauth2/token", data={"code": "x"}, auth=(app.client_id, "wrong"))
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")


async def test_behaviour_008_other_grants_are_refused(customer: Customer) -> None:
    refused = await customer.exchange(await customer.allow(), grant_type="client_credentials")
    assert (refused.status_code, refused.json()["error"]) == (400, "unsupported_grant_type")
    await customer.control("switches", {"unknown_grant_type": "invalid_request"})
    refused = await customer.exchange(await customer.allow(), grant_type="client_credentials")
    assert refused.json()["error"] == "invalid_request"


async def test_behaviour_008_a_secret_with_reserved_characters_is_percent_encoded() -> None:
    secret = "a+b/c:d%~_"
    sandbox = Sandbox(SandboxConfig(apps=(acme_app(client_secret=secret),)))
    app = sandbox.config.apps[0]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox.app), base_url="http://s.test") as http:
        customer = Customer(sandbox, http)
        callback = await customer.allow()
        form = {
            "grant_type": "authorization_code",
            "code": callback.params["code"],
            "redirect_uri": app.redirect_uris[0],
        }
        raw = await http.post("/oauth2/token", data=form, auth=(app.client_id, secret))
        assert raw.status_code == 401
        encoded = await http.post("/oauth2/token", data=form, auth=(app.client_id, quote(secret, safe="")))
        assert encoded.status_code == 200
        install = encoded.json()["install_name"]
        assert (await refresh(customer, install)).status_code == 200
        assert (await refresh(customer, install, quote(secret, safe=""))).status_code == 200


async def test_behaviour_009_redirect_uri_must_be_the_same(customer: Customer) -> None:
    callback = await customer.allow()
    other = await customer.exchange(callback, redirect_uri=customer.sandbox.config.apps[0].redirect_uris[1])
    assert (other.status_code, other.json()["error"]) == (400, "invalid_request")
    assert other.json()["error_description"].startswith("The request is missing a required parameter")
    assert "redirect_uri" in other.json()["error_hint"]
    assert (await customer.exchange(callback)).status_code == 200, "a refused exchange leaves the code alone"


async def test_behaviour_009_second_use_of_a_code_revokes_its_token(customer: Customer) -> None:
    callback = await customer.allow()
    token = (await customer.exchange(callback)).json()["access_token"]
    destination = f"/v1beta/{WEB}/destinations/acme-crm"
    assert (await customer.http.get(destination, headers=bearer(token))).status_code == 404
    again = await customer.exchange(callback)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert (await customer.http.get(destination, headers=bearer(token))).status_code == 401


async def test_behaviour_009_code_expires_after_ten_minutes(customer: Customer) -> None:
    callback = await customer.allow()
    await customer.control("clock", {"advance_seconds": 600})
    assert (await customer.exchange(callback)).json()["error"] == "invalid_grant"


async def test_behaviour_009_code_of_another_client() -> None:
    other = AppSeed("other", "secret", ("https://other.example/",), "destination/acme-crm", "other", "Other")
    sandbox = Sandbox(SandboxConfig(apps=(acme_app(), other)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox.app), base_url="http://s.test") as http:
        callback = await Customer(sandbox, http).allow()
        form = {"grant_type": "authorization_code", "code": callback.params["code"]}
        stolen = await http.post("/oauth2/token", data=form, auth=("other", "secret"))
    assert (stolen.status_code, stolen.json()["error"]) == (400, "invalid_request")


async def test_behaviour_010_token_response(customer: Customer) -> None:
    body = await customer.install()
    assert set(body) == {
        "access_token",
        "token_type",
        "expires_in",
        "scope",
        "app_name",
        "install_name",
        "workspace_names",
        "source_names",
    }
    assert re.fullmatch(r"[\w-]{43}\.[\w-]{43}", str(body["access_token"]))
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("bearer", 3599, "destination/acme-crm")
    assert re.fullmatch(r"apps/\d+", str(body["app_name"]))
    assert re.fullmatch(r"installs/\d+", str(body["install_name"]))
    assert body["workspace_names"] == ["workspaces/northwind"]
    assert body["source_names"] == [WEB]


async def test_behaviour_010_workspace_scope_has_no_source_names() -> None:
    app = AppSeed("reader", "secret", ("https://reader.example/",), "workspace:read", "reader", "Reader")
    sandbox = Sandbox(SandboxConfig(apps=(app,)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox.app), base_url="http://s.test") as http:
        customer = Customer(sandbox, http)
        page = await customer.consent_page()
        assert 'name="source"' not in page.text
        answered = await customer.answer(page, workspace="workspaces/northwind")
        callback = httpx.URL((await http.get(answered.headers["location"])).headers["location"])
        body = (await customer.exchange(callback)).json()
    assert "source_names" not in body
    assert body["scope"] == "workspace:read"


async def test_behaviour_010_two_source_names_when_switched_on(customer: Customer) -> None:
    await customer.control("switches", {"source_names": "two"})
    assert (await customer.install())["source_names"] == [WEB, MOBILE]


async def test_behaviour_012_second_install_is_refused_in_the_callback(customer: Customer) -> None:
    await customer.install()
    callback = await customer.allow(MOBILE)
    assert "code" not in callback.params
    assert callback.params["error_description"] == "install already exists"
    assert callback.params["state"]


@pytest.mark.parametrize(("place", "status"), [("token_endpoint_409", 409), ("token_endpoint_400", 400)])
async def test_behaviour_012_second_install_is_refused_at_the_token_endpoint(
    customer: Customer, place: str, status: int
) -> None:
    await customer.control("switches", {"install_exists": place})
    await customer.install()
    refused = await customer.exchange(await customer.allow(MOBILE))
    assert refused.status_code == status
    assert "install already exists" in refused.text


async def test_behaviour_012_second_install_is_refused_on_the_page(customer: Customer) -> None:
    await customer.control("switches", {"install_exists": "page"})
    await customer.install()
    page = await customer.consent_page()
    answered = await customer.answer(page, source=WEB)
    assert answered.status_code == 400
    assert "install already exists" in answered.text


async def test_behaviour_012_other_workspaces_are_free(customer: Customer) -> None:
    first = await customer.install()
    await customer.http.post("/logout")
    second = await customer.install("workspaces/contoso-labs/sources/website", "owner@contoso.example")
    assert first["install_name"] != second["install_name"]


async def test_behaviour_012_install_at_consent_leaves_an_orphan_when_the_answer_is_lost(customer: Customer) -> None:
    await customer.control("switches", {"install_created_at": "consent"})
    await customer.allow()
    callback = await customer.allow()
    assert callback.params["error_description"] == "install already exists"


async def test_behaviour_013_refresh(customer: Customer) -> None:
    first = await customer.install()
    response = await refresh(customer, first["install_name"])
    body = response.json()
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", body["access_token"])
    assert body["expires_in"] == 3600
    assert "source_names" not in body
    assert body["install_name"] == str(first["install_name"]).replace("installs/", "install/")
    assert body["app_name"] == "apps/acme-crm"
    destination = f"/v1beta/{WEB}/destinations/acme-crm"
    assert (await customer.http.get(destination, headers=bearer(first["access_token"]))).status_code == 401
    assert (await customer.http.get(destination, headers=bearer(body["access_token"]))).status_code == 404


async def test_behaviour_013_refresh_forms_of_the_other_profiles(customer: Customer) -> None:
    first = await customer.install()
    await customer.control("profile", {"profile": "documented"})
    documented = (await refresh(customer, first["install_name"])).json()
    assert (documented["install_name"], documented["app_name"]) == (first["install_name"], first["app_name"])
    await customer.control("profile", {"profile": "hostile"})
    hostile = (await refresh(customer, first["install_name"])).json()
    assert set(hostile) == {"access_token", "token_type"}
    assert len(hostile["access_token"]) == 1000


async def test_behaviour_013_refresh_is_refused(customer: Customer) -> None:
    install = (await customer.install())["install_name"]
    wrong_secret = await refresh(customer, install, "wrong")
    assert (wrong_secret.status_code, wrong_secret.json()["code"]) == (401, 16)
    unknown = await refresh(customer, "installs/1")
    assert (unknown.status_code, unknown.json()["code"]) == (404, 5)


async def test_behaviour_014_tokens_expire_after_an_hour(customer: Customer) -> None:
    token = (await customer.install())["access_token"]
    destination = f"/v1beta/{WEB}/destinations/acme-crm"
    await customer.control("clock", {"advance_seconds": 3599})
    assert (await customer.http.get(destination, headers=bearer(token))).status_code == 404
    await customer.control("clock", {"advance_seconds": 1})
    expired = await customer.http.get(destination, headers=bearer(token))
    assert expired.status_code == 401
    assert expired.json() == {"error": "malformed token", "code": 16}


async def test_behaviour_014_tokens_can_be_made_to_expire(customer: Customer) -> None:
    first = await customer.install()
    assert await customer.control("expire-tokens") == {"expired": 1}
    expired = await customer.http.get(f"/v1beta/{WEB}/destinations/acme-crm", headers=bearer(first["access_token"]))
    assert expired.status_code == 401
    assert (await refresh(customer, first["install_name"])).status_code == 200


async def test_behaviour_015_uninstall(customer: Customer) -> None:
    first = await customer.install()
    await customer.control("uninstall", {"install_name": first["install_name"]})
    gone = await customer.http.get(f"/v1beta/{WEB}/destinations/acme-crm", headers=bearer(first["access_token"]))
    assert gone.status_code == 401
    assert (await refresh(customer, first["install_name"])).status_code == 404
    assert (await customer.install())["install_name"] != first["install_name"], "it can be installed again"


async def test_pkce_is_verified_when_a_challenge_was_sent(customer: Customer) -> None:
    customer.extra = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
    callback = await customer.allow()
    refused = await customer.exchange(callback, code_verifier="w" * 43)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert (await customer.exchange(callback)).status_code == 400
    assert (await customer.exchange(callback, code_verifier=VERIFIER)).status_code == 200


async def test_pkce_is_ignored_in_the_documented_profile(customer: Customer) -> None:
    await customer.control("profile", {"profile": "documented"})
    customer.extra = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
    assert (await customer.exchange(await customer.allow())).status_code == 200


@pytest.mark.parametrize("method", ["plain", ""])
async def test_pkce_takes_s256_only(customer: Customer, method: str) -> None:
    refused = await customer.authorize(code_challenge=CHALLENGE, code_challenge_method=method)
    assert httpx.URL(refused.headers["location"]).params["error"] == "invalid_request"


@pytest.mark.parametrize("header", ["Basic !!!", "Basic /w==", "Basic", "Digest x"])
async def test_unreadable_credentials(customer: Customer, header: str) -> None:
    headers = {"Authorization": header}
    refused = await customer.http.post("/oauth2/token", data={"code": "x"}, headers=headers)
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize("absent", ["grant_type", "code", "redirect_uri"])
async def test_behaviour_008_missing_parameters(customer: Customer, absent: str) -> None:
    refused = await customer.exchange(await customer.allow(), **{absent: ""})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")
