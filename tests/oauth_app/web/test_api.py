"""The HTTP API: tokens and scopes, every operation, and a description that is true."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from enable_with_segment.db.control.tables import ApiToken
from enable_with_segment.oauth_app.operators.api_tokens import PREFIX, Scope
from enable_with_segment.oauth_app.web.api import routes as api_routes
from enable_with_segment.oauth_app.web.api import shapes
from enable_with_segment.oauth_app.web.api.operations import OPERATIONS, Operation
from enable_with_segment.oauth_app.web.api.requests import LARGEST_BODY
from enable_with_segment.subscriptions.receiving.signature import sign
from tests.oauth_app.operations import SERVICE, Operations, running_service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Operations]:
    async with running_service(tmp_path, return_origins="https://app.acme.example") as running:
        yield running


async def test_a_connect_link_is_made_for_an_account(service: Operations) -> None:
    answer = await service.http.post(
        f"{SERVICE}/api/v1/connect-links",
        json={
            "account": "acct_42",
            "return_to": "https://app.acme.example/done",
            "settings": {"Region": "eu", "batchSize": "7"},
        },
        headers=await service.token(Scope.CONNECT_LINKS_WRITE),
    )
    assert answer.status_code == 201
    link = shapes.ConnectLinkAnswer.model_validate(answer.json())
    assert link.account == "acct_42"
    stored = await service.services.connect_links.look(link.url.rpartition("/")[2])
    assert stored is not None
    assert (stored.account, stored.return_to, stored.settings) == (
        "acct_42",
        "https://app.acme.example/done",
        {"region": "eu", "batchSize": 7},
    )
    (entry,) = await service.audited("connect_link.mint")
    assert re.fullmatch(r"api_token:tok_[a-z0-9]{20}", entry.actor)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, "account"),
        *[
            ({"account": account}, "account: an account is 1 to 200 printable characters without spaces around them.")
            for account in ("", " padded ", "a\nb", 42, "x" * 5000, None, ["acct_1"])
        ],
        ({"account": "a", "return_to": "https://evil.example/"}, "return_to"),
        ({"account": "a", "return_to": "//evil.example"}, "return_to"),
        ({"account": "a", "settings": []}, "settings"),
        ({"account": "a", "settings": {"regoin": "eu"}}, "settings: 'acme-crm' has no setting 'regoin'"),
        ({"account": "a", "settings": {"region": "mars"}}, "settings: the setting 'region' has to be one of us, eu"),
        ({"account": "a", "settings": {"region": None}}, "settings: the setting 'region' has to be text"),
        ({"account": "a", "reconnects": "ins_00000000000000000000"}, "reconnects"),
        ({"account": "a", "unknown": 1}, "unknown"),
        ([], "body"),
    ],
)
async def test_a_wrong_request_is_told_which_field_is_wrong(service: Operations, body: Any, names: str) -> None:
    headers = await service.token()
    answer = await service.http.post(f"{SERVICE}/api/v1/connect-links", json=body, headers=headers)
    assert answer.status_code == 400
    assert shapes.Problem.model_validate(answer.json()).message.startswith(names)
    assert await service.audited("connect_link.mint") == []


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"account": NaN}', "application/json", 400),
        (b'{"account": "a", "account": "b"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 413),
        (b"[" * 1_000, "application/json", 400),
        (b'{"account": "a"}', "text/plain", 415),
        (b" " * (LARGEST_BODY + 1), "application/json", 413),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused(
    service: Operations, content: bytes, kind: str, status: int
) -> None:
    headers = {**await service.token(), "Content-Type": kind}
    answer = await service.http.post(f"{SERVICE}/api/v1/connect-links", content=content, headers=headers)
    assert answer.status_code == status
    shapes.Problem.model_validate(answer.json())


async def test_installs_are_listed_in_pages(service: Operations) -> None:
    made = [await service.install("acct_1", number) for number in range(5)]
    await service.install("acct_2", 9)
    headers = await service.token(Scope.INSTALLS_READ)
    seen: list[str] = []
    query = {"account": "acct_1", "limit": "2"}
    while True:
        answer = await service.http.get(f"{SERVICE}/api/v1/installs", params=query, headers=headers)
        page = shapes.InstallsAnswer.model_validate(answer.json())
        seen += [install.id for install in page.installs]
        if page.next is None:
            break
        query["before"] = page.next
    assert seen == [install.id for install in reversed(made)]
    for wrong in ({"limit": "0"}, {"limit": "501"}, {"limit": "x"}, {"before": "ins_x"}, {"account": "a\x00"}):
        answer = await service.http.get(f"{SERVICE}/api/v1/installs", params=wrong, headers=headers)
        assert answer.status_code == 400, wrong


async def test_one_install_is_shown(service: Operations) -> None:
    install = await service.install(status_detail="fine")
    headers = await service.token(Scope.INSTALLS_READ)
    answer = await service.http.get(f"{SERVICE}/api/v1/installs/{install.id}", headers=headers)
    shown = shapes.InstallAnswer.model_validate(answer.json())
    assert (shown.id, shown.account, shown.status, shown.detail) == (install.id, "acct_1", "connected", "fine")
    for unknown in ("ins_" + "0" * 20, "x", "%00", "ins_%27"):
        answer = await service.http.get(f"{SERVICE}/api/v1/installs/{unknown}", headers=headers)
        assert answer.status_code == 404


async def test_a_receipt_says_what_became_of_an_event_and_not_what_it_held(service: Operations) -> None:
    _, key = await service.api_key()
    assert (await service.deliver(key, "m-1", properties={"card": "4111"})).status_code == 202
    headers = await service.token(Scope.EVENTS_READ)
    answer = await service.http.get(f"{SERVICE}/api/v1/events/m-1", headers=headers)
    receipt = shapes.ReceiptAnswer.model_validate(answer.json())
    (event,) = receipt.events
    assert (receipt.message_id, event.account, event.event, event.state) == ("m-1", "acct_1", "Signed Up", "pending")
    assert "4111" not in answer.text
    await service.deliver(key, "a/b c")
    assert (await service.http.get(f"{SERVICE}/api/v1/events/a%2Fb%20c", headers=headers)).status_code == 200
    for unknown in ("m-2", "%00", "a%0ab"):
        assert (await service.http.get(f"{SERVICE}/api/v1/events/{unknown}", headers=headers)).status_code == 404


async def test_an_api_key_is_made_shown_once_and_revoked(service: Operations) -> None:
    headers = await service.token(Scope.API_KEYS_WRITE)
    answer = await service.http.post(f"{SERVICE}/api/v1/api-keys", json={"account": "acct_7"}, headers=headers)
    made = shapes.ApiKeyAnswer.model_validate(answer.json())
    assert (answer.status_code, made.account, made.component) == (201, "acct_7", "acme-crm")
    assert answer.headers["cache-control"] == "no-store"
    assert (await service.deliver(made.api_key, "m-1")).status_code == 202
    revoked = await service.http.delete(f"{SERVICE}/api/v1/api-keys/{made.id}", headers=headers)
    assert (revoked.status_code, revoked.content) == (204, b"")
    assert (await service.deliver(made.api_key, "m-2")).status_code == 401
    for gone in (made.id, "key_x", "%00"):
        assert (await service.http.delete(f"{SERVICE}/api/v1/api-keys/{gone}", headers=headers)).status_code == 404


async def test_a_signed_key_comes_with_what_a_webhooks_destination_needs(service: Operations) -> None:
    headers = await service.token(Scope.API_KEYS_WRITE)
    body = {"account": "acct_7", "signed": True}
    answer = await service.http.post(f"{SERVICE}/api/v1/api-keys", json=body, headers=headers)
    made = shapes.ApiKeyAnswer.model_validate(answer.json())
    assert made.url is not None
    assert made.signing_secret is not None
    assert made.url == f"{SERVICE}/subscriptions/acme-crm/{made.api_key}"
    event = b'{"type":"track","event":"Signed Up","messageId":"m-1","userId":"u","timestamp":"2026-01-01T00:00:00Z"}'
    kind = {"Content-Type": "application/json"}
    signature = {"X-Signature": sign(made.signing_secret, event)}
    assert (await service.http.post(made.url, content=event, headers=kind)).status_code == 401
    assert (await service.http.post(made.url, content=event, headers={**kind, **signature})).status_code == 202
    assert (await service.http.delete(f"{SERVICE}/api/v1/api-keys/{made.id}", headers=headers)).status_code == 204
    assert (await service.http.post(made.url, content=event, headers={**kind, **signature})).status_code == 401


def _filled(operation: Operation) -> str:
    return SERVICE + re.sub(r"\{\w+\}", "x", operation.path)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda found: found.handle.__name__)
async def test_every_operation_needs_a_token_with_its_scope(service: Operations, operation: Operation) -> None:
    others = tuple(scope for scope in Scope if scope is not operation.scope)
    _, api_key = await service.api_key()
    expired = await service.token(lifetime=timedelta(0))
    revoked = await service.token()
    async with service.services.database.transaction() as session:
        newest = (await session.exec(select(ApiToken).where(ApiToken.expires_at == None))).all()  # noqa: E711
    await service.services.api_tokens.revoke(newest[-1].id, actor="cli")
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Basic eDp5"}, 401),
        ({"Authorization": f"Bearer {PREFIX}{'x' * 40}"}, 401),
        ({"Authorization": f"Bearer {api_key}"}, 401),
        (expired, 401),
        (revoked, 401),
        (await service.token(*others), 403),
    ):
        answer = await service.http.request(operation.method, _filled(operation), headers=headers, json={})
        assert answer.status_code == status
        shapes.Problem.model_validate(answer.json())
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_description_is_that_of_the_routes(service: Operations) -> None:
    answer = await service.http.get(f"{SERVICE}/api/openapi.json")
    described = answer.json()
    assert described["openapi"] == "3.1.0"
    routed = {
        (route.path.replace(":path", ""), method.lower())
        for route in api_routes.routes()
        for method in (route.methods or set()) - {"HEAD"}
        if route.path.startswith("/api/v1/")
    }
    assert {(path, method) for path, methods in described["paths"].items() for method in methods} == routed
    references = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(described)))
    assert references == set(described["components"]["schemas"]), "nothing dangles, nothing is left over"
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            named = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), (method, path)


async def test_refusals_of_the_router_are_json_too(service: Operations) -> None:
    missing = await service.http.get(f"{SERVICE}/api/v1/nothing")
    assert (missing.status_code, shapes.Problem.model_validate(missing.json()).code) == (404, "not_found")
    wrong = await service.http.put(f"{SERVICE}/api/v1/connect-links")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    shapes.Problem.model_validate(wrong.json())


async def test_tokens_are_stored_hashed_and_never_shown_again(service: Operations, tmp_path: Path) -> None:
    minted = await service.services.api_tokens.mint("backend", [Scope.EVENTS_READ], lifetime=None, actor="cli")
    assert minted.token not in repr(minted)
    assert minted.token.encode() not in (tmp_path / "control.db").read_bytes()
    (entry,) = await service.audited("api_token.mint")
    assert entry.detail == {"name": "backend", "scopes": ["events:read"]}
