from __future__ import annotations

import pytest

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox import AppSeed, Sandbox, SandboxConfig, acme_app
from tests.segment_sandbox.customer import MOBILE, OWNER, WEB, WEB_DESTINATION, Customer, bearer

URL = f"/v1beta/{WEB_DESTINATION}"
API_KEY = f"{WEB_DESTINATION}/config/apiKey"


async def access_token(customer: Customer, scope: str = "workspace") -> str:
    response = await customer.http.post(
        "/v1beta/access-tokens",
        json={"access_token": {"description": "d", "scopes": scope, "workspace_names": ["workspaces/northwind"]}},
        auth=(OWNER, "any password"),
    )
    assert response.status_code == 200, response.text
    return str(response.json()["token"])


async def patch(customer: Customer, token: str, destination: object, *paths: str) -> httpx.Response:
    body = {"destination": destination, "update_mask": {"paths": list(paths)}}
    return await customer.http.patch(URL, json=body, headers=bearer(token))


def values(destination: httpx.Response) -> dict[str, object]:
    return {entry["name"].rpartition("/")[2]: entry["value"] for entry in destination.json()["config"]}


async def test_behaviour_016_bad_path(customer: Customer) -> None:
    bad = await customer.http.get("/v1beta/nothing/here")
    assert bad.status_code == 503
    assert bad.headers["content-type"].startswith("text/plain")
    assert bad.text == "upstream connect error or disconnect/reset before headers"
    await customer.control("switches", {"bad_path": "404"})
    bad = await customer.http.get("/v1beta/nothing/here")
    assert (bad.status_code, bad.json()["code"]) == (404, 5)


async def test_behaviour_016_trailing_slash_is_dropped(customer: Customer) -> None:
    token = await customer.enable()
    assert (await customer.http.get(f"{URL}/", headers=bearer(token))).status_code == 200


async def test_behaviour_016_missing_and_malformed_tokens(customer: Customer) -> None:
    for headers in ({}, bearer("nothing"), {"Authorization": "Basic eDp5"}):
        refused = await customer.http.get(URL, headers=headers)
        assert refused.status_code == 401
        assert refused.json() == {"error": "malformed token", "code": 16}


async def test_behaviour_017_destination_scope_reaches_one_slug_on_one_source(customer: Customer) -> None:
    token = await customer.enable()
    headers = bearer(token)
    refused = [
        await customer.http.get(f"/v1beta/{WEB}/destinations", headers=headers),
        await customer.http.get(f"/v1beta/{WEB}/destinations/other", headers=headers),
        await customer.http.get(f"/v1beta/{MOBILE}/destinations/acme-crm", headers=headers),
        await customer.http.get("/v1beta/workspaces", headers=headers),
        await customer.http.get("/v1beta/workspaces/northwind/sources", headers=headers),
        await customer.create_destination(token, "pk", source=MOBILE),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(403, 7)] * 6


async def test_behaviour_018_read_scope_cannot_write(customer: Customer) -> None:
    token = await access_token(customer, "workspace:read")
    refused = await customer.create_destination(token, "pk")
    assert refused.status_code == 403
    assert refused.json() == {"error": "insufficient scope", "code": 7}
    listed = await customer.http.get(f"/v1beta/{WEB}/destinations", headers=bearer(token))
    assert listed.json() == {"destinations": [], "next_page_token": ""}


async def test_behaviour_019_create_answers_the_whole_object(customer: Customer) -> None:
    token = str((await customer.install())["access_token"])
    created = await customer.create_destination(token, "pk_orchid_51f0", fields={"enabled": None})
    body = created.json()
    assert created.status_code == 200
    assert body["name"] == WEB_DESTINATION
    assert body["parent"] == WEB
    assert body["display_name"] == "Acme CRM"
    assert body["enabled"] is False, "disabled unless enabled is sent"
    assert body["connection_mode"] == "UNSPECIFIED"
    assert body["create_time"].endswith("Z")
    assert values(created) == {"apiKey": "pk_orchid_51f0", "region": "us"}, "all settings, with defaults, in clear"
    assert body["config"][0] == {
        "name": API_KEY,
        "display_name": "API Key",
        "value": "pk_orchid_51f0",
        "type": "string",
    }


async def test_behaviour_019_connection_mode_and_masking_are_switches(customer: Customer) -> None:
    token = await customer.enable()
    await customer.control("switches", {"connection_mode_answer": "echo", "mask_sensitive_settings": True})
    seen = await customer.http.get(URL, headers=bearer(token))
    assert seen.json()["connection_mode"] == "CLOUD"
    assert "•" in str(values(seen)["apiKey"])
    assert values(seen)["region"] == "us"


async def test_behaviour_020_create_when_existing(customer: Customer) -> None:
    token = await customer.enable()
    observed = await customer.create_destination(token, "pk")
    assert observed.status_code == 500
    assert observed.json() == {"error": "destination already exists or other internal error", "code": 13}

    await customer.control("profile", {"profile": "documented"})
    documented = await customer.create_destination(token, "pk")
    assert (documented.status_code, documented.json()["code"]) == (409, 6)

    await customer.control("profile", {"profile": "hostile"})
    statuses = {(await customer.create_destination(token, "pk")).status_code for _ in range(2)}
    assert statuses == {500, 409}


async def test_behaviour_020_unknown_catalog_slug(customer: Customer) -> None:
    token = await access_token(customer)
    name = f"{WEB}/destinations/unknown"
    absent = await customer.http.post(
        f"/v1beta/{WEB}/destinations", json={"destination": {"name": name}}, headers=bearer(token)
    )
    assert (absent.status_code, absent.json()["code"]) == (404, 5)


async def test_behaviour_021_masked_value_is_set_and_config_merges(customer: Customer) -> None:
    token = await customer.enable("first")
    config = [{"name": f"{WEB_DESTINATION}/config/region", "value": "eu"}]
    answer = await patch(customer, token, {"config": config}, "destination.config")
    assert values(answer) == {"apiKey": "first", "region": "eu"}
    assert answer.json()["enabled"] is True


async def test_behaviour_021_masked_but_absent_is_zeroed(customer: Customer) -> None:
    token = await customer.enable()
    assert (await patch(customer, token, {}, "destination.enabled")).json()["enabled"] is False
    assert values(await patch(customer, token, {}, "destination.config")) == {"apiKey": "", "region": "us"}


@pytest.mark.parametrize("paths", [(), ("enabled",)])
async def test_behaviour_021_unmasked_value_changes_nothing(customer: Customer, paths: tuple[str, ...]) -> None:
    token = await customer.enable()
    before = (await customer.http.get(URL, headers=bearer(token))).json()
    assert (await patch(customer, token, {"enabled": False}, *paths)).json() == before


async def test_behaviour_021_unknown_mask_path_by_switch(customer: Customer) -> None:
    token = await customer.enable()
    await customer.control("switches", {"unknown_mask_path": "invalid_argument"})
    refused = await patch(customer, token, {"enabled": False}, "enabled")
    assert (refused.status_code, refused.json()["code"]) == (400, 3)


async def test_behaviour_021_nested_mask_counts_only_when_switched_on(customer: Customer) -> None:
    token = await customer.enable()
    body = {"destination": {"enabled": False, "update_mask": {"paths": ["destination.enabled"]}}}
    ignored = await customer.http.patch(URL, json=body, headers=bearer(token))
    assert ignored.json()["enabled"] is True
    await customer.control("switches", {"nested_update_mask": True})
    honoured = await customer.http.patch(URL, json=body, headers=bearer(token))
    assert honoured.json()["enabled"] is False


async def test_behaviour_021_patch_of_an_absent_destination(customer: Customer) -> None:
    token = str((await customer.install())["access_token"])
    absent = await patch(customer, token, {"enabled": True}, "destination.enabled")
    assert (absent.status_code, absent.json()["code"]) == (404, 5)


@pytest.mark.parametrize(
    "fields",
    [
        {"config": [{"name": f"{WEB_DESTINATION}/config/unknown", "value": "x"}]},
        {"config": [{"name": "apiKey", "value": "x"}]},
        {"config": [{"name": API_KEY, "value": 7}]},
        {"config": [{"name": f"{WEB_DESTINATION}/config/region", "value": "moon"}]},
        {"config": {"apiKey": "x"}},
        {"connection_mode": "TELEPATHY"},
        {"enabled": "perhaps"},
        {"name": f"{MOBILE}/destinations/acme-crm"},
        {"name": None},
    ],
)
async def test_behaviour_022_bad_fields(customer: Customer, fields: dict[str, object]) -> None:
    token = str((await customer.install())["access_token"])
    refused = await customer.create_destination(token, "pk", fields=fields)
    assert (refused.status_code, refused.json()["code"]) == (400, 3)
    assert (await customer.http.get(URL, headers=bearer(token))).status_code == 404


async def test_behaviour_023_get_and_delete(customer: Customer) -> None:
    token = await customer.enable()
    deleted = await customer.http.delete(URL, headers=bearer(token))
    assert (deleted.status_code, deleted.json()) == (200, {})
    for method in ("GET", "DELETE"):
        gone = await customer.http.request(method, URL, headers=bearer(token))
        assert (gone.status_code, gone.json()["code"]) == (404, 5)


async def test_behaviour_024_pagination(customer: Customer) -> None:
    headers = bearer(await access_token(customer))
    url = "/v1beta/workspaces/northwind/sources"
    first = (await customer.http.get(url, params={"page_size": 1}, headers=headers)).json()
    second = (
        await customer.http.get(url, params={"page_size": 1, "page_token": first["next_page_token"]}, headers=headers)
    ).json()
    assert [first["sources"][0]["name"], second["sources"][0]["name"]] == [WEB, MOBILE]
    assert second["next_page_token"] == ""
    bad = await customer.http.get(url, params={"page_size": "many"}, headers=headers)
    assert (bad.status_code, bad.json()["code"]) == (400, 3)


async def test_behaviour_025_two_hundred_requests_a_minute(customer: Customer) -> None:
    await customer.control("switches", {"requests_per_minute": 3})
    token = str((await customer.install())["access_token"])
    statuses = [(await customer.http.get(URL, headers=bearer(token))).status_code for _ in range(4)]
    assert statuses == [404, 404, 404, 429]
    assert (await customer.http.get(URL, headers=bearer(token))).json()["code"] == 8
    await customer.control("clock", {"advance_seconds": 60})
    assert (await customer.http.get(URL, headers=bearer(token))).status_code == 404


async def test_behaviour_026_catalog(customer: Customer) -> None:
    headers = bearer((await customer.install())["access_token"])
    entry = (await customer.http.get("/v1beta/catalog/destinations/acme-crm", headers=headers)).json()
    assert entry["name"] == "catalog/destinations/acme-crm"
    assert [(setting["name"], setting["required"]) for setting in entry["settings"]] == [
        ("apiKey", True),
        ("region", False),
    ]
    listed = (await customer.http.get("/v1beta/catalog/destinations", headers=headers)).json()
    assert listed["destinations"] == [entry]
    assert (await customer.http.get("/v1beta/catalog/sources", headers=headers)).json()["sources"]
    assert (await customer.http.get("/v1beta/catalog/destinations/none", headers=headers)).status_code == 404
    await customer.control("switches", {"catalog_readable": False})
    assert (await customer.http.get("/v1beta/catalog/destinations", headers=headers)).status_code == 403


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        ({"status": 500, "body": {"error": "x", "code": 13}}, 500, '{"error": "x", "code": 13}'),
        ({"status": 503, "body": "upstream", "content_type": "text/plain"}, 503, "upstream"),
        ({"malformed_json": True}, 200, '{"error": "cut off in the mid'),
    ],
)
async def test_behaviour_027_scripted_answers(
    customer: Customer, fault: dict[str, object], status: int, body: str
) -> None:
    token = await customer.enable()
    await customer.control("faults", {"route": r"GET /v1beta/.*/acme-crm", "times": 2, "fault": fault})
    for _ in range(2):
        answer = await customer.http.get(URL, headers=bearer(token))
        assert (answer.status_code, answer.text) == (status, body)
    assert (await customer.http.get(URL, headers=bearer(token))).json()["enabled"] is True


async def test_behaviour_027_reset_over_a_socket(config: SandboxConfig) -> None:
    sandbox = Sandbox(config)
    async with sandbox.listening() as base_url, httpx.AsyncClient(base_url=base_url) as http:
        customer = Customer(sandbox, http)
        await customer.control("faults", {"route": ".* /oauth2/token", "fault": {"reset": True}})
        with pytest.raises(httpx.TransportError):
            await http.post("/oauth2/token", data={"code": "x"})
        assert (await http.post("/oauth2/token", data={"code": "x"})).status_code == 400


async def test_behaviour_027_answer_lost_after_the_work_was_done(customer: Customer) -> None:
    callback = await customer.allow()
    await customer.control("faults", {"route": "POST /oauth2/token", "fault": {"status": 503, "after": True}})
    assert (await customer.exchange(callback)).status_code == 503
    assert (await customer.exchange(callback)).json()["error"] == "invalid_grant", "the code was spent"


async def test_behaviour_027_reset_in_process(customer: Customer) -> None:
    await customer.control("faults", {"route": "GET /login", "times": None, "fault": {"reset": True}})
    for _ in range(2):
        with pytest.raises(httpx.ReadError):
            await customer.http.get("/login")
    assert (await customer.http.delete("/_sandbox/faults")).status_code == 200
    assert (await customer.http.get("/login")).status_code == 200


async def test_behaviour_028_lenient_json(customer: Customer) -> None:
    token = await customer.enable()
    body = "{'destination': {'enabled': 'false'}, 'update_mask': {'paths': ['destination.enabled']}}"
    assert (await customer.http.patch(URL, content=body, headers=bearer(token))).json()["enabled"] is False
    await customer.control("switches", {"lenient_json": False})
    strict = await customer.http.patch(URL, content=body, headers=bearer(token))
    assert (strict.status_code, strict.json()["code"]) == (400, 3)
    text = {"destination": {"enabled": "true"}, "update_mask": {"paths": ["destination.enabled"]}}
    assert (await customer.http.patch(URL, json=text, headers=bearer(token))).status_code == 400


async def test_behaviour_029_workspace_name_styles(customer: Customer) -> None:
    headers = bearer(await access_token(customer))
    workspace = (await customer.http.get("/v1beta/workspaces/northwind", headers=headers)).json()
    assert workspace["name"] == "workspaces/northwind"
    await customer.control("switches", {"workspace_name_style": "bare"})
    listed = (await customer.http.get("/v1beta/workspaces", headers=headers)).json()
    assert [entry["name"] for entry in listed["workspaces"]] == ["northwind"]
    assert (await customer.install())["workspace_names"] == ["northwind"]


async def test_behaviour_030_app_creation_by_rest(customer: Customer) -> None:
    headers = bearer(await access_token(customer))
    redirect_uri = "http://localhost:9000/callback"
    app: dict[str, object] = {
        "display_name": "Other CRM",
        "scope": "destination/acme-crm",
        "redirect_uris": [redirect_uri],
        "public": True,
        "client_uri": "https://other.example",
    }
    created = (await customer.http.post("/v1beta/apps", json={"app": app}, headers=headers)).json()
    assert created["client_uri"] == "https://other.example"
    started = await customer.authorize(client_id=created["client_id"], redirect_uri=redirect_uri)
    assert started.headers["location"].startswith("/login?")

    app["redirect_uris"] = ["http://other.example/callback"]
    refused = await customer.http.post("/v1beta/apps", json={"app": app}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (400, 3)
    read_only = bearer(await access_token(customer, "workspace:read"))
    assert (await customer.http.post("/v1beta/apps", json={"app": app}, headers=read_only)).status_code == 403


async def test_behaviour_030_access_tokens_are_for_owners(customer: Customer) -> None:
    body = {"access_token": {"scopes": "workspace", "workspace_names": ["workspaces/northwind"]}}
    for user, status in (("member@northwind.example", 403), ("stranger@mail.example", 401)):
        assert (await customer.http.post("/v1beta/access-tokens", json=body, auth=(user, ""))).status_code == status


async def test_sources_with_workspace_scope(customer: Customer) -> None:
    headers = bearer(await access_token(customer))
    name = "workspaces/northwind/sources/backend"
    body = {"source": {"name": name, "catalog_name": "catalog/sources/python"}}
    url = "/v1beta/workspaces/northwind/sources"
    created = await customer.http.post(url, json=body, headers=headers)
    assert len(created.json()["write_keys"]) == 1
    assert (await customer.http.get(f"/v1beta/{name}", headers=headers)).json() == created.json()
    assert (await customer.http.post(url, json=body, headers=headers)).json()["code"] == 6
    foreign = await customer.http.get("/v1beta/workspaces/contoso-labs/sources", headers=headers)
    assert foreign.status_code == 403


async def test_a_source_that_is_gone(customer: Customer) -> None:
    token = str((await customer.install())["access_token"])
    del customer.sandbox.state.world.sources[WEB]
    assert (await customer.create_destination(token, "pk")).json()["code"] == 5


def test_app_needs_a_redirect_uri() -> None:
    assert acme_app().redirect_uris
    with pytest.raises(ValueError, match="between one and five"):
        AppSeed("id", "secret", (), "workspace", "a", "A")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("access-tokens", {}),
        ("access-tokens", {"access_token": {"scopes": "everything", "workspace_names": ["workspaces/northwind"]}}),
        ("access-tokens", {"access_token": {"scopes": "workspace", "workspace_names": []}}),
        ("apps", {}),
        ("apps", {"app": {"redirect_uris": "x"}}),
        ("apps", {"app": {"redirect_uris": [7], "scope": "workspace", "display_name": "X"}}),
        ("workspaces/northwind/sources", {"source": {"name": "backend"}}),
        (f"{WEB}/destinations", {"destination": "x"}),
        (f"{WEB}/destinations", []),
    ],
)
async def test_malformed_bodies_are_invalid_arguments(customer: Customer, path: str, body: object) -> None:
    headers = bearer(await access_token(customer))
    auth = (OWNER, "") if path == "access-tokens" else httpx.USE_CLIENT_DEFAULT
    refused = await customer.http.post(f"/v1beta/{path}", json=body, headers=headers, auth=auth)
    assert (refused.status_code, refused.json()["code"]) == (400, 3)


@pytest.mark.parametrize("mask", [{"paths": "destination.enabled"}, {"paths": [1]}, "destination.enabled"])
async def test_behaviour_021_malformed_mask(customer: Customer, mask: object) -> None:
    token = await customer.enable()
    body = {"destination": {"enabled": False}, "update_mask": mask}
    refused = await customer.http.patch(URL, json=body, headers=bearer(token))
    assert (refused.status_code, refused.json()["code"]) == (400, 3)


async def test_a_body_beyond_all_bounds(customer: Customer) -> None:
    refused = await customer.http.post("/v1beta/apps", content=b"x" * (8 * 1024 * 1024 + 1))
    assert refused.status_code == 413
