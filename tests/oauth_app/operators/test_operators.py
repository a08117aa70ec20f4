"""Operators: login against a real OpenID Connect provider, roles, sessions and sign-in links."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlmodel import select

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control.tables import OperatorLogin, OperatorSession
from enable_with_segment.db.database import Database
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.operators.roles import AccessLists, Operator, Role
from enable_with_segment.oauth_app.operators.sessions import IDLE, LIFETIME, Sessions
from enable_with_segment.oauth_app.web.dashboard.sign_in import own_page
from enable_with_segment.segment_api.http import trusted
from tests.oauth_app.conftest import MovingClock
from tests.oauth_app.operations import SERVICE, Operations, running_service
from tests.oauth_app.operators.identity_provider import CLIENT_ID, CLIENT_SECRET, SPOILED, Provider, running_provider


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with running_provider() as running:
        yield running


@contextlib.asynccontextmanager
async def _service(folder: Path, provider: Provider, **environment: Any) -> AsyncIterator[Operations]:
    given = {
        "oidc_issuer": provider.issuer,
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret": CLIENT_SECRET,
        "operators": "operator@acme.example, group:platform",
        "viewers": "vic@acme.example",
        **environment,
    }
    async with running_service(folder, **given) as service:
        yield service


@pytest.fixture
async def service(tmp_path: Path, provider: Provider) -> AsyncIterator[Operations]:
    async with _service(tmp_path, provider) as running:
        yield running


async def _to_provider_and_back(service: Operations, to: str = "/dashboard") -> str:
    """Start a login and let the provider answer; returns the callback's address, which is not opened."""
    started = await service.http.get(f"{SERVICE}/dashboard/login", params={"to": to})
    assert started.status_code == 303
    async with httpx.AsyncClient(verify=trusted()) as outside:
        answered = await outside.get(started.headers["location"])
    return str(answered.headers["location"])


async def _sign_in(service: Operations, to: str = "/dashboard") -> httpx.Response:
    return await service.http.get(await _to_provider_and_back(service, to))


async def test_an_operator_signs_in_looks_and_signs_out(service: Operations) -> None:
    asked = await service.http.get(f"{SERVICE}/dashboard/keys?account=a")
    assert asked.headers["location"] == "/dashboard/sign-in?to=%2Fdashboard%2Fkeys%3Faccount%3Da"
    page = await service.http.get(f"{SERVICE}{asked.headers['location']}")
    assert "/dashboard/login?to=%2Fdashboard%2Fkeys%3Faccount%3Da" in page.text
    back = await _sign_in(service, "/dashboard/keys?account=a")
    assert (back.status_code, back.headers["location"]) == (303, "/dashboard/keys?account=a")
    shown = await service.http.get(f"{SERVICE}/dashboard/keys")
    assert shown.status_code == 200
    assert "operator@acme.example · operator" in shown.text
    (entry,) = await service.audited("operator.sign_in")
    assert (entry.actor, entry.detail["role"]) == ("operator:operator@acme.example", "operator")
    cookie = service.http.cookies["operator"]
    out = await service.http.post(f"{SERVICE}/dashboard/sign-out")
    assert (out.status_code, out.headers["location"]) == (303, "/dashboard/sign-in")
    service.http.cookies.set("operator", cookie, domain="localhost.local")
    assert (await service.http.get(f"{SERVICE}/dashboard")).status_code == 303, "the session ended on our side, too"


@pytest.mark.parametrize("spoil", SPOILED)
async def test_an_id_token_that_proves_nothing_signs_nobody_in(
    service: Operations, provider: Provider, spoil: str
) -> None:
    provider.spoil = spoil
    answer = await _sign_in(service)
    assert answer.status_code == 403
    assert "operator" not in answer.cookies
    async with service.services.database.transaction() as session:
        assert (await session.exec(select(OperatorSession))).all() == []
    provider.spoil = ""
    assert (await _sign_in(service)).status_code == 303, "and the next login works"


async def test_keys_that_the_provider_rotated_are_read_again(service: Operations, provider: Provider) -> None:
    assert (await _sign_in(service)).status_code == 303
    provider.rotate()
    logins = service.services.operators.logins
    assert logins is not None
    known = logins._provider
    assert known._keys is not None
    known._keys = (known._keys[0] - 31, known._keys[1])
    assert (await _sign_in(service)).status_code == 303


async def test_a_login_belongs_to_one_browser_and_ends_once(service: Operations, provider: Provider) -> None:
    callback = await _to_provider_and_back(service)
    transport = httpx.ASGITransport(service.app)
    async with httpx.AsyncClient(transport=transport) as elsewhere:
        assert (await elsewhere.get(callback)).status_code == 400
        (name,) = [name for name in service.http.cookies if name.startswith("operator_login_")]
        elsewhere.cookies.set(name, "x" * 43, domain="localhost.local", path="/dashboard/callback")
        assert (await elsewhere.get(callback)).status_code == 400
    assert provider.exchanges == 0
    answers = await asyncio.gather(*(service.http.get(callback) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [303] + [400] * 9
    assert provider.exchanges == 1


async def test_two_tabs_sign_in_in_either_order(service: Operations) -> None:
    first, second = await _to_provider_and_back(service), await _to_provider_and_back(service)
    for callback in (second, first):
        assert (await service.http.get(callback)).headers["location"] == "/dashboard"


async def test_the_request_carries_state_nonce_and_challenge_that_nobody_stored(service: Operations) -> None:
    started = await service.http.get(f"{SERVICE}/dashboard/login")
    query = {name: values[0] for name, values in parse_qs(urlsplit(started.headers["location"]).query).items()}
    assert query["redirect_uri"] == f"{SERVICE}/dashboard/callback"
    assert query["code_challenge_method"] == "S256"
    assert min(len(query[name]) for name in ("state", "nonce", "code_challenge")) == 43
    cookie = started.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=lax", "path=/dashboard/callback"))
    async with service.services.database.transaction() as session:
        stored = (await session.exec(select(OperatorLogin))).one()
    assert not {query["state"], query["nonce"]} & set(stored.model_dump().values())


async def test_a_refusal_of_the_provider_signs_nobody_in(service: Operations, provider: Provider) -> None:
    provider.refuse = "access_denied"
    assert (await _sign_in(service)).status_code == 403
    assert provider.exchanges == 0
    for query in ("", "?state=a", "?code=a", "?code=a&state=b", "?state=a&state=b&code=c"):
        assert (await service.http.get(f"{SERVICE}/dashboard/callback{query}")).status_code == 400


async def test_a_login_that_took_too_long_is_refused(service: Operations, provider: Provider) -> None:
    callback = await _to_provider_and_back(service)
    logins = service.services.operators.logins
    assert logins is not None
    logins._clock = lambda: utc_now() + timedelta(minutes=11)
    assert (await service.http.get(callback)).status_code == 400
    assert provider.exchanges == 0


async def test_a_provider_that_does_not_answer_is_told_in_a_sentence(tmp_path: Path, provider: Provider) -> None:
    provider.issuer = "http://127.0.0.1:9"
    async with _service(tmp_path, provider) as service:
        answer = await service.http.get(f"{SERVICE}/dashboard/login")
    assert answer.status_code == 503
    assert "does not answer" in answer.text


async def test_a_provider_that_names_another_issuer_is_not_used(tmp_path: Path, provider: Provider) -> None:
    real, provider.issuer = provider.issuer, "https://evil.example"
    async with _service(tmp_path, provider, oidc_issuer=real) as service:
        assert (await service.http.get(f"{SERVICE}/dashboard/login")).status_code == 503


async def test_looking_ahead_starts_no_login(service: Operations) -> None:
    for method, headers in (("HEAD", {}), ("GET", {"Sec-Purpose": "prefetch"})):
        answer = await service.http.request(method, f"{SERVICE}/dashboard/login", headers=headers)
        assert answer.status_code == 204
    async with service.services.database.transaction() as session:
        assert (await session.exec(select(OperatorLogin))).all() == []


async def test_somebody_on_no_list_stays_out(service: Operations, provider: Provider) -> None:
    provider.claims = {"sub": "u-9", "email": "eve@evil.example", "email_verified": True}
    answer = await _sign_in(service)
    assert answer.status_code == 403
    assert "OPERATORS or VIEWERS" in answer.text
    assert "operator" not in answer.cookies


LISTS = AccessLists({"Operator@acme.example", "group:platform"}, {"vic@acme.example", "group:Support"}, "roles")


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"email": "operator@ACME.example", "email_verified": True}, Role.OPERATOR),
        ({"email": "operator@acme.example", "email_verified": False}, None),
        ({"email": "operator@acme.example", "email_verified": "true"}, None),
        ({"email": "operator@acme.example"}, None),
        ({"email": "vic@acme.example", "email_verified": True}, Role.VIEWER),
        ({"email": "vic@acme.example", "email_verified": True, "roles": ["platform"]}, Role.OPERATOR),
        ({"roles": ["x", "platform"]}, Role.OPERATOR),
        ({"roles": "platform"}, Role.OPERATOR),
        ({"roles": ["Platform"]}, None),
        ({"roles": ["Support", 7, None, {}]}, Role.VIEWER),
        ({"groups": ["platform"]}, None),
        ({"email": "group:platform", "email_verified": True}, None),
        ({"roles": ["operator@acme.example"]}, None),
        ({}, None),
    ],
)
def test_roles_come_from_verified_addresses_and_groups(claims: dict[str, Any], role: Role | None) -> None:
    found = LISTS.operator_of({"sub": "u-1", **claims})
    assert (None if found is None else found.role) == role


async def test_sessions_end_when_idle_and_when_old(database: Database) -> None:
    clock = MovingClock()
    sessions = Sessions(database, LISTS, secure=True, clock=clock)
    ana = Operator("ana", Role.OPERATOR, "group:platform")
    token = await sessions.begin(ana, by="test")
    for _ in range(3):
        clock.moved += IDLE - timedelta(minutes=1)
        assert await sessions.look(token) == ana, "every visit keeps it alive"
    clock.moved += IDLE + timedelta(seconds=1)
    assert await sessions.look(token) is None
    token = await sessions.begin(ana, by="test")
    end = clock.moved + LIFETIME
    while clock.moved + IDLE < end:
        clock.moved += IDLE - timedelta(minutes=1)
        assert await sessions.look(token) == ana
    clock.moved = end
    assert await sessions.look(token) is None
    assert await sessions.look("x" * 43) is None
    async with database.transaction() as session:
        assert token not in {row.token_hash for row in (await session.exec(select(OperatorSession))).all()}


async def test_a_session_ends_when_what_let_it_in_is_on_no_list_any_more(database: Database) -> None:
    signed_in = LISTS.operator_of({"sub": "u-1", "roles": ["platform"]})
    assert signed_in == Operator("u-1", Role.OPERATOR, "group:platform")
    token = await Sessions(database, LISTS, secure=True).begin(signed_in, by="test")
    for lists, there in (
        (LISTS, True),
        (AccessLists({"group:platform"}, ()), True),
        (AccessLists({"operator@acme.example"}, {"group:platform"}), False),
        (AccessLists((), (), links=True), False),
    ):
        found = await Sessions(database, lists, secure=True).look(token)
        assert (found == signed_in) is there
    by_link = await Sessions(database, LISTS, secure=True).begin(Operator("local", Role.OPERATOR), by="link")
    assert await Sessions(database, LISTS, secure=True).look(by_link) is None
    assert await Sessions(database, AccessLists((), (), links=True), secure=True).look(by_link) is not None


async def test_session_cookies_are_bound_to_the_host_and_not_for_scripts(tmp_path: Path) -> None:
    for base_url, name, words in (
        ("https://segment.acme.example", "__Host-operator", {"secure", "httponly", "samesite=lax", "path=/"}),
        (SERVICE, "operator", {"httponly", "samesite=lax", "path=/"}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        async with running_provider() as provider, _service(folder, provider, base_url=base_url) as service:
            service.http.base_url = httpx.URL(base_url)
            started = await service.http.get("/dashboard/login")
            async with httpx.AsyncClient(verify=trusted()) as outside:
                answered = await outside.get(started.headers["location"])
            signed_in = await service.http.get(answered.headers["location"])
        (cookie,) = [c for c in signed_in.headers.get_list("set-cookie") if c.startswith(f"{name}=")]
        given = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert words <= given
        assert not any(part.startswith("domain=") for part in given)


async def test_a_sign_in_link_works_once_and_not_by_looking(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        links = service.services.operators.links
        assert links is not None
        link = await links.mint_first()
        assert link is not None
        assert await links.mint_first() is None, "only at the first start"
        for _ in range(2):
            page = await service.http.get(link)
            assert page.status_code == 200
            assert "set-cookie" not in page.headers
        assert (await service.http.post(link, headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
        answers = await asyncio.gather(*(service.http.post(link) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [303] + [404] * 4
        service.http.cookies.clear()
        links._clock = lambda: utc_now() + timedelta(minutes=16)
        late = await service.services.operators.links.mint()  # type: ignore[union-attr]
        links._clock = lambda: utc_now() + timedelta(minutes=32)
        assert (await service.http.post(late)).status_code == 404


async def test_there_are_no_sign_in_links_on_a_public_address(tmp_path: Path) -> None:
    async with running_service(tmp_path, base_url="https://segment.acme.example") as service:
        assert service.services.operators.links is None
        for method in ("GET", "POST"):
            answer = await service.http.request(method, f"https://segment.acme.example/dashboard/sign-in/{'x' * 43}")
            assert answer.status_code == 404
        page = await service.http.get("https://segment.acme.example/dashboard/sign-in")
        assert re.search("nobody can sign in", page.text)


@pytest.mark.parametrize(
    ("address", "page"),
    [
        ("/dashboard/events?state=pending&x=%20", "/dashboard/events?state=pending&x=%20"),
        ("/dashboard", "/dashboard"),
        (None, "/dashboard"),
        ("//evil.example", "/dashboard"),
        ("/dashboard\\@evil.example", "/dashboard"),
        ("/dashboardx", "/dashboard"),
        ("https://evil.example/dashboard", "/dashboard"),
        ("/dashboard/\r\nSet-Cookie: a=b", "/dashboard"),
        ("/connect/x", "/dashboard"),
    ],
)
def test_signing_in_leads_to_a_page_of_the_dashboard_only(address: str | None, page: str) -> None:
    assert own_page(address) == page
