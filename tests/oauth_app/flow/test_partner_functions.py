"""PARTNER_SESSION and API_KEY_HOOK that fail, hang or return nonsense: named in the log, and nothing is changed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlmodel import select
from starlette.requests import Request

from enable_with_segment.db.control.tables import FlowState
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.operators.api_tokens import Scope
from enable_with_segment.oauth_app.web.routes import partner_account
from tests.oauth_app.conftest import SERVICE, FrontDoor, build_front_door

HTML = {"Accept": "text/html"}
ACCOUNT = "an account is 1 to 200 printable characters without spaces around them"


class Session:
    """The partner's function, which does what a test says."""

    def __init__(self) -> None:
        self.answer: Callable[[], Awaitable[object]] | None = None

    async def __call__(self, _request: Request) -> str | None:
        return None if self.answer is None else await self.answer()  # type: ignore[return-value]  # what a partner may do


@pytest.fixture
async def session_door(
    sqlite_database: Database, encryption: EncryptionKeys
) -> AsyncIterator[tuple[FrontDoor, Session]]:
    session = Session()
    door = build_front_door(sqlite_database, encryption, b"s" * 32, partner_session=session)
    async with door.app.router.lifespan_context(door.app):
        yield door, session


def returns(value: object) -> Callable[[], Awaitable[object]]:
    async def answer() -> object:
        return value

    return answer


def raises(error: BaseException) -> Callable[[], Awaitable[object]]:
    async def answer() -> object:
        raise error

    return answer


async def _exits() -> object:
    sys.exit(1)


async def _hangs() -> object:
    await asyncio.Event().wait()
    return None


async def _flows(door: FrontDoor) -> list[FlowState]:
    async with door.database.transaction() as session:
        return list((await session.exec(select(FlowState))).all())


def _told(caplog: pytest.LogCaptureFixture, page: httpx.Response) -> str:
    """The one log line about a failure; the page shows its reference."""
    (record,) = [record for record in caplog.records if "PARTNER_SESSION" in record.message]
    incident = record.message.rpartition("incident ")[2].rstrip(")")
    assert incident in page.text
    return record.message


@pytest.mark.parametrize("account", [42, "", "x" * 5000, "a\x00b", " padded ", ["acct_1"], "\ud800"], ids=repr)
async def test_an_account_that_cannot_be_starts_nothing(
    session_door: tuple[FrontDoor, Session], caplog: pytest.LogCaptureFixture, account: object
) -> None:
    door, session = session_door
    link = await door.link()
    session.answer = returns(account)
    async with door.client() as http:
        page = await http.get(f"{SERVICE}/auth/segment", headers=HTML)
        assert page.status_code == 503
        assert "can&#39;t tell which account" in page.text
        assert f"PARTNER_SESSION (acme.web:signed_in) returned something else: {ACCOUNT}" in _told(caplog, page)
        assert (await http.post(link, headers=HTML)).status_code == 503
    assert await _flows(door) == []


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (raises(ConnectionError("redis is away")), "raised ConnectionError"),
        (raises(OSError("redis is away")), "raised OSError"),
        (raises(KeyboardInterrupt()), "raised KeyboardInterrupt"),
        (_exits, "raised SystemExit"),
        (raises(asyncio.CancelledError()), "raised CancelledError"),
        (_hangs, "took longer than 0.05 s"),
    ],
)
async def test_a_session_function_that_fails_or_hangs_is_named_and_no_store_is_blamed(
    session_door: tuple[FrontDoor, Session],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[], Awaitable[object]],
    problem: str,
) -> None:
    monkeypatch.setattr(partner_account, "_SECONDS", 0.05)
    door, session = session_door
    session.answer = answer
    async with door.client() as http:
        page = await http.get(f"{SERVICE}/auth/segment", headers=HTML)
    assert (page.status_code, page.headers["retry-after"]) == (503, "10")
    assert f"PARTNER_SESSION (acme.web:signed_in) {problem}" in _told(caplog, page)
    assert "a store is away" not in caplog.text


async def test_a_session_function_that_fails_at_the_callback_uses_nothing_up(
    session_door: tuple[FrontDoor, Session],
) -> None:
    door, session = session_door
    async with door.browser() as browser:
        consent = await door.to_consent(browser)
        session.answer = raises(ConnectionError("for a moment"))
        page = await browser.submit(consent, button="allow")
        assert (page.status_code, door.exchanges) == (503, 0)
        session.answer = None
        page = await browser.open(str(page.url))
    assert page.url.path.startswith("/status/")


@contextlib.asynccontextmanager
async def _door_with_key_hook(
    database: Database, encryption: EncryptionKeys, hook: Callable[[str, str], str]
) -> AsyncIterator[FrontDoor]:
    door = build_front_door(database, encryption, b"s" * 32, api_key_hook=hook)
    async with door.app.router.lifespan_context(door.app):
        yield door


def _exit_in_thread(_account: str, _component: str) -> str:
    sys.exit(1)


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        (_exit_in_thread, "API_KEY_HOOK raised SystemExit"),
        (lambda *_: os.environ["NOT_THERE"], "API_KEY_HOOK raised KeyError"),
        (lambda *_: 42, "API_KEY_HOOK has to return 16 to 256 ASCII characters"),
    ],
)
async def test_a_key_function_that_fails_is_named(
    sqlite_database: Database,
    encryption: EncryptionKeys,
    caplog: pytest.LogCaptureFixture,
    hook: Callable[[str, str], str],
    problem: str,
) -> None:
    async with _door_with_key_hook(sqlite_database, encryption, hook) as door, door.client() as http:
        token = (await door.services.api_tokens.mint("test", (Scope.API_KEYS_WRITE,), lifetime=None, actor="cli")).token
        answer = await http.post(
            f"{SERVICE}/api/v1/api-keys", json={"account": "acct_1"}, headers={"Authorization": f"Bearer {token}"}
        )
    assert (answer.status_code, answer.json()["code"]) == (503, "function_failed")
    assert problem in caplog.text
