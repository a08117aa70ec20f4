"""Starting a flow: contract cases 1-3, and what must not start one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlmodel import select
from starlette.requests import Request

from enable_with_segment.db.control.tables import ConnectLink, FlowState
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from tests.oauth_app.conftest import SEGMENT, SERVICE, FrontDoor, build_front_door


async def _signed_in_by_header(request: Request) -> str | None:
    return request.headers.get("x-partner-account")


@contextlib.asynccontextmanager
async def _with_session(database: Database, encryption: EncryptionKeys, **environment: Any) -> AsyncIterator[FrontDoor]:
    door = build_front_door(database, encryption, b"s" * 32, partner_session=_signed_in_by_header, **environment)
    async with door.app.router.lifespan_context(door.app):
        yield door


async def _flows(door: FrontDoor) -> list[FlowState]:
    async with door.database.transaction() as session:
        return list((await session.exec(select(FlowState))).all())


async def test_case_001_start_without_a_signed_in_user_does_not_reach_segment(front_door: FrontDoor) -> None:
    async with front_door.client() as http:
        answer = await http.get(f"{SERVICE}/auth/segment")
    assert answer.status_code == 401
    assert "Sign in to Acme CRM" in answer.text
    assert await _flows(front_door) == []
    assert front_door.requests("/oauth2/auth") == 0


async def test_case_001_start_without_a_signed_in_user_goes_to_the_partners_login(
    sqlite_database: Database, encryption: EncryptionKeys
) -> None:
    login = "https://app.acme.example/login"
    async with _with_session(sqlite_database, encryption, partner_login_url=login) as door, door.client() as http:
        answer = await http.get(f"{SERVICE}/auth/segment")
        assert (answer.status_code, answer.headers["location"]) == (303, login)
        assert await _flows(door) == []


async def test_case_002_start_redirects_to_the_authorize_url(
    sqlite_database: Database, encryption: EncryptionKeys
) -> None:
    async with _with_session(sqlite_database, encryption) as door, door.client() as http:
        answer = await http.get(
            f"{SERVICE}/auth/segment",
            headers={
                "X-Partner-Account": "acct_1",
                "X-Forwarded-Host": "evil.example",
                "Forwarded": "host=evil.example",
            },
        )
    assert answer.status_code == 302
    target = urlsplit(answer.headers["location"])
    assert f"{target.scheme}://{target.netloc}{target.path}" == f"{SEGMENT}/oauth2/auth"
    query = parse_qs(target.query, strict_parsing=True)
    state = query.pop("state")[0]
    assert len(state) >= 32
    assert len(query.pop("code_challenge")[0]) == 43
    assert query == {
        "response_type": ["code"],
        "client_id": [door.services.settings.segment_client_id],
        "redirect_uri": [f"{SERVICE}/auth/segment/callback"],
        "scope": ["destination/acme-crm"],
        "code_challenge_method": ["S256"],
    }


async def test_case_003_every_start_has_a_state_of_its_own_bound_to_browser_and_account(
    sqlite_database: Database, encryption: EncryptionKeys
) -> None:
    states: set[str] = set()
    async with _with_session(sqlite_database, encryption) as door, door.client() as http:
        for number in range(20):
            answer = await http.get(f"{SERVICE}/auth/segment", headers={"X-Partner-Account": f"acct_{number}"})
            state = parse_qs(urlsplit(answer.headers["location"]).query)["state"][0]
            states.add(state)
            cookie = answer.headers["set-cookie"].lower()
            for attribute in ("httponly", "samesite=lax", "path=/auth/segment", "max-age=3600"):
                assert attribute in cookie
            assert state not in answer.headers["set-cookie"]
        flows = await _flows(door)
    assert len(states) == 20
    assert all(len(state) >= 32 for state in states)
    assert {flow.account for flow in flows} == {f"acct_{number}" for number in range(20)}
    assert len({flow.cookie_hash for flow in flows}) == 20
    assert not states & {flow.state_hash for flow in flows}


@pytest.mark.parametrize(("base_url", "secure"), [(SERVICE, False), ("https://segment.acme.example", True)])
async def test_cookies_are_secure_wherever_the_service_is_https(
    sqlite_database: Database, encryption: EncryptionKeys, base_url: str, secure: bool
) -> None:
    async with _with_session(sqlite_database, encryption, base_url=base_url) as door, door.client() as http:
        answer = await http.get(f"{SERVICE}/auth/segment", headers={"X-Partner-Account": "a"})
    assert ("secure" in answer.headers["set-cookie"].lower()) is secure


@pytest.mark.parametrize(
    ("method", "headers"),
    [("HEAD", {}), ("GET", {"Sec-Purpose": "prefetch"}), ("GET", {"Purpose": "prefetch"})],
)
async def test_oa_23_looking_ahead_creates_no_flow(
    sqlite_database: Database, encryption: EncryptionKeys, method: str, headers: dict[str, str]
) -> None:
    async with _with_session(sqlite_database, encryption) as door, door.client() as http:
        answer = await http.request(
            method, f"{SERVICE}/auth/segment", headers={"X-Partner-Account": "acct_1", **headers}
        )
        assert answer.status_code == 204
        assert await _flows(door) == []


async def test_em_3_looking_at_a_link_does_not_use_it_up(front_door: FrontDoor) -> None:
    link = await front_door.link()
    async with front_door.client() as http:
        for method in ("GET", "HEAD", "GET"):
            assert (await http.request(method, link)).status_code == 200
    async with front_door.browser() as browser:
        page = await front_door.connect(browser, link=link)
    assert page.url.path.startswith("/status/")


async def test_em_2_used_expired_and_invented_links_look_the_same(front_door: FrontDoor) -> None:
    used, expired = await front_door.link(), await front_door.link()
    async with front_door.browser() as browser:
        await front_door.to_consent(browser, link=used)
    front_door.clock.moved = timedelta(minutes=16)
    async with front_door.client() as http:
        pages = [await http.get(url) for url in (used, expired, f"{SERVICE}/connect/{'x' * 43}")]
        posts = [await http.post(url) for url in (used, expired, f"{SERVICE}/connect/{'x' * 43}")]
    assert {page.status_code for page in pages + posts} == {404}
    assert len({page.text for page in pages + posts}) == 1
    assert "get a new one" in pages[0].text


async def test_em_1_links_are_stored_hashed_and_used_once_by_many(front_door: FrontDoor) -> None:
    link = await front_door.link()
    async with front_door.database.transaction() as session:
        stored = (await session.exec(select(ConnectLink))).one()
    assert stored.token_hash not in link
    assert stored.expires_at - stored.created_at == timedelta(minutes=15)
    async with front_door.client() as http:
        answers = await asyncio.gather(*(http.post(link) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [303] + [404] * 19


async def test_another_site_cannot_press_the_button(front_door: FrontDoor) -> None:
    link = await front_door.link()
    async with front_door.client() as http:
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
            assert (await http.post(link, headers=headers)).status_code == 403
        assert (await http.post(link, headers={"Origin": SERVICE})).status_code == 303


async def test_oa_21_a_link_of_another_account_is_refused(
    sqlite_database: Database, encryption: EncryptionKeys
) -> None:
    async with _with_session(sqlite_database, encryption) as door, door.client() as http:
        link = await door.link("acct_1")
        for method in ("GET", "POST"):
            answer = await http.request(method, link, headers={"X-Partner-Account": "acct_2"})
            assert answer.status_code == 403
            assert "different account" in answer.text
        assert await _flows(door) == []
        assert (await http.post(link, headers={"X-Partner-Account": "acct_1"})).status_code == 303


async def test_the_connect_page_names_the_account_and_escapes_it(front_door: FrontDoor) -> None:
    link = await front_door.link("acct_<script>alert(1)</script>")
    async with front_door.client() as http:
        page = await http.get(link)
    assert "<script>" not in page.text
    assert "acct_&lt;script&gt;" in page.text
    assert "Workspace Owner" in page.text


async def test_a_start_with_a_link_goes_to_the_page_that_asks(front_door: FrontDoor) -> None:
    link = await front_door.link()
    async with front_door.client() as http:
        answer = await http.get(f"{SERVICE}/auth/segment", params={"link": link.rpartition("/")[2]})
    assert (answer.status_code, answer.headers["location"]) == (303, urlsplit(link).path)
