"""What a person sees when something fails, and the log line that the reference on the page leads to."""

from __future__ import annotations

import logging
import re

import pytest
from sqlalchemy import text

from enable_with_segment.db.control import connect_links
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.flow.failures import FAILURES, FailureReason
from tests.oauth_app.conftest import SERVICE, FrontDoor

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize(
    ("query", "reason", "level"),
    [
        ("code=c&state=s&iss=https://elsewhere.example", FailureReason.ISSUER_MISMATCH, logging.ERROR),
        ("code=c&code=d&state=s", FailureReason.PARAMETER_REPEATED, logging.WARNING),
        ("", FailureReason.NOTHING_RETURNED, logging.WARNING),
        ("code=c", FailureReason.STATE_MISSING, logging.WARNING),
        ("code=c&state=unheard-of", FailureReason.STATE_UNKNOWN, logging.WARNING),
    ],
)
async def test_every_failed_callback_has_a_reference_and_a_log_line(
    front_door: FrontDoor, caplog: pytest.LogCaptureFixture, query: str, reason: FailureReason, level: int
) -> None:
    async with front_door.client() as http:
        page = await http.get(f"{SERVICE}/auth/segment/callback?{query}")
    assert page.status_code == FAILURES[reason].status
    reference = re.search(r"Reference ([0-9a-f]{8})", page.text)
    assert reference is not None
    (record,) = [r for r in caplog.records if reference[1] in r.getMessage()]
    assert reason.value in record.getMessage()
    assert record.levelno == level


async def test_a_callback_in_another_browser_has_a_reference_too(
    front_door: FrontDoor, caplog: pytest.LogCaptureFixture
) -> None:
    assert front_door.services.flow is not None
    started = await front_door.services.flow.starts.start("acct_northwind")
    state = httpx.URL(started.url).params["state"]  # type: ignore[union-attr]
    async with front_door.client() as http:
        page = await http.get(f"{SERVICE}/auth/segment/callback", params={"code": "c", "state": state})
    assert "Reference" in page.text
    assert FailureReason.STATE_OF_ANOTHER_BROWSER.value in caplog.text
    assert state not in caplog.text


async def test_a_browser_gets_a_page_for_an_unknown_address_and_a_program_a_line(front_door: FrontDoor) -> None:
    async with front_door.client() as http:
        page = await http.get(f"{SERVICE}/nowhere", headers=BROWSER)
        line = await http.get(f"{SERVICE}/nowhere")
        api = await http.get(f"{SERVICE}/api/v1/nowhere", headers=BROWSER)
    assert page.status_code == line.status_code == api.status_code == 404
    assert "There is nothing at this address" in page.text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert line.text == "Not Found\n"
    assert api.json()["code"] == "not_found"


async def test_a_browser_gets_a_page_while_the_store_is_away(
    front_door: FrontDoor, caplog: pytest.LogCaptureFixture
) -> None:
    async with front_door.database.transaction() as session:
        await (await session.connection()).execute(text("DROP TABLE connect_links"))
    async with front_door.client() as http:
        page = await http.get(f"{SERVICE}/connect/secret-link-token", headers=BROWSER)
        plain = await http.get(f"{SERVICE}/connect/secret-link-token")
    assert page.status_code == plain.status_code == 503
    assert page.headers["retry-after"] == plain.headers["retry-after"] == "10"
    assert "Acme CRM can&#39;t read its records" in page.text
    assert "incident" in plain.json()["message"]
    assert "OperationalError" in caplog.text
    assert "'/connect/{link}'" in caplog.text
    assert "secret-link-token" not in caplog.text


async def test_a_browser_gets_a_page_for_a_bug(front_door: FrontDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("not for strangers")

    monkeypatch.setattr(connect_links, "find", broken)
    transport = httpx.ASGITransport(front_door.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport) as http:
        page = await http.get(f"{SERVICE}/connect/link", headers=BROWSER)
    assert page.status_code == 500
    assert "Something went wrong on our side" in page.text
    assert "Reference" in page.text
    assert "strangers" not in page.text


async def test_a_bug_on_a_page_of_a_connect_link_is_logged_without_the_link(
    front_door: FrontDoor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(connect_links, "find", broken)
    transport = httpx.ASGITransport(front_door.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport) as http:
        page = await http.get(f"{SERVICE}/connect/secret-link-token", headers=BROWSER)
    assert page.status_code == 500
    assert "unexpected error on GET '/connect/{link}'" in caplog.text
    assert "secret-link-token" not in caplog.text
