"""The callback: contract cases 4 to 20."""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlmodel import func, select

from enable_with_segment.db.control.tables import FlowState, InstallStatus
from enable_with_segment.installs.record import PROVISION
from enable_with_segment.oauth_app.demo.browser import Browser
from tests.leak_watch import FLOW, LeakWatch
from tests.oauth_app.conftest import SERVICE, FrontDoor

CALLBACK = f"{SERVICE}/auth/segment/callback"


async def _returned(door: FrontDoor, browser: Browser, *, link: str | None = None) -> str:
    """Walk up to the moment Segment redirects back, and return that address without going there."""
    consent = await door.to_consent(browser, link=link)
    answer = await browser.submit(consent, button="allow", stop_before=CALLBACK)
    location = answer.headers["location"]
    assert location.startswith(CALLBACK)
    return str(location)


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


async def test_case_004_a_matching_state_and_code_are_exchanged_once(front_door_on_both: FrontDoor) -> None:
    door = front_door_on_both
    async with door.browser() as browser:
        page = await door.connect(browser)
    assert page.status_code == 200
    assert door.exchanges == 1
    (install,) = await door.installs()
    assert install.account == "acct_northwind"
    assert install.status is InstallStatus.PROVISIONING
    assert len(door.woken) == 1


async def test_oa_14_the_browser_ends_on_an_address_without_code_or_state(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        page = await front_door.connect(browser)
    assert page.url.query == b""
    assert browser.hops[-2].status == 303


@pytest.mark.parametrize(
    ("case", "query", "status"),
    [
        ("005", "code=abc", 400),
        ("006", "code=abc&state=" + "u" * 43, 400),
        ("010", "", 400),
        ("010", "scope=destination%2Facme-crm", 400),
        ("011", "code=abc&error=access_denied&state=" + "u" * 43, 403),
        ("018", "code=abc&foo=bar&foo=baz&state=" + "u" * 43, 400),
    ],
)
async def test_cases_005_006_010_011_018_odd_queries_never_reach_the_token_endpoint(
    front_door: FrontDoor, case: str, query: str, status: int
) -> None:
    async with front_door.client() as http:
        answer = await http.get(f"{CALLBACK}?{query}")
    assert answer.status_code == status
    assert front_door.exchanges == 0
    assert await front_door.installs() == []


async def test_case_005_a_code_without_state_is_refused(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        page = await browser.open(f"{CALLBACK}?code={_query(url)['code']}")
    assert page.status_code == 400
    assert front_door.exchanges == 0


async def test_case_006_an_unknown_state_is_refused(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        page = await browser.open(f"{CALLBACK}?code={_query(url)['code']}&state={'a' * 43}")
    assert page.status_code == 400
    assert "never started here" in page.text
    assert front_door.exchanges == 0


async def test_case_007_a_used_state_with_another_code_is_refused(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        await browser.open(url)
        page = await browser.open(f"{CALLBACK}?code=another&state={_query(url)['state']}")
    assert page.status_code == 400
    assert "finished already" in page.text
    assert front_door.exchanges == 1


async def test_case_008_a_state_of_another_browser_is_refused(front_door_on_both: FrontDoor) -> None:
    door = front_door_on_both
    async with door.browser() as browser, door.browser() as other:
        url = await _returned(door, browser)
        page = await other.open(url)
        assert page.status_code == 400
        assert "another browser" in page.text
        assert door.exchanges == 0
        assert (await browser.open(url)).url.path.startswith("/status/")


async def test_oa_03_a_cookie_of_another_flow_does_not_open_this_one(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        first = await _returned(front_door, browser)
        second = await _returned(front_door, browser)
        jar = browser.http.cookies.jar
        flow_cookies = [cookie for cookie in jar if cookie.name.startswith("segment_flow_")]
        assert len(flow_cookies) == 2
        values = [cookie.value for cookie in flow_cookies]
        for cookie, value in zip(flow_cookies, reversed(values), strict=True):
            cookie.value = value
        for url in (first, second):
            assert (await browser.open(url)).status_code == 400
    assert front_door.exchanges == 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_oa_06_two_tabs_complete_in_either_order(front_door: FrontDoor, order: tuple[int, int]) -> None:
    async with front_door.browser() as browser:
        tabs = [
            await _returned(front_door, browser, link=await front_door.link("acct_a")),
            await _returned(front_door, browser, link=await front_door.link("acct_a")),
        ]
        front_door.sandbox.state.set_switches({"install_exists": "callback"})
        pages = [await browser.open(tabs[number]) for number in order]
    assert [page.url.path.startswith("/status/") for page in pages] == [True, True]


async def test_case_009_an_expired_state_is_refused(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        front_door.clock.moved = timedelta(minutes=10, seconds=1)
        page = await browser.open(url)
    assert page.status_code == 400
    assert "ten minutes" in page.text
    assert "Enable with Segment" in page.text
    assert front_door.exchanges == 0


async def test_case_011_an_error_beside_a_code_wins(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        page = await browser.open(f"{url}&error=access_denied")
    assert page.status_code == 403
    assert front_door.exchanges == 0
    assert await front_door.installs() == []


async def test_case_012_access_denied_is_told_kindly_and_escaped(front_door: FrontDoor) -> None:
    front_door.sandbox.state.set_switches({"consent_deny": "custom_error_with_html"})
    async with front_door.browser() as browser:
        consent = await front_door.to_consent(browser)
        page = await browser.submit(consent, button="deny")
    assert page.url.path == "/auth/segment/callback"
    assert 400 <= page.status_code < 404
    assert "Segment" in page.text
    assert await front_door.installs() == []
    assert "<script" not in page.text.lower()
    assert "<img" not in page.text.lower()


async def test_case_012_a_denied_flow_is_used_up(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        state = _query(url)["state"]
        denied = f"{CALLBACK}?error=access_denied&error_description=No&error_hint=really&state={state}"
        page = await browser.open(denied)
        assert page.status_code == 403
        assert "wasn’t connected" in page.text or "wasn&#39;t connected" in page.text
        again = await browser.open(url)
    assert again.status_code == 400
    assert front_door.exchanges == 0


async def test_case_013_invalid_scope_with_an_empty_state_changes_nothing_and_alarms(
    front_door: FrontDoor, caplog: pytest.LogCaptureFixture
) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        page = await browser.open(f"{CALLBACK}?error=invalid_scope&error_hint=not+allowed&state=")
        assert page.status_code == 400
        assert "set up correctly" in page.text
        assert any(record.levelno == logging.ERROR and "scope_refused" in record.message for record in caplog.records)
        assert (await browser.open(url)).url.path.startswith("/status/")


@pytest.mark.parametrize("error", ["temporarily_unavailable", "server_error"])
async def test_case_014_segments_own_trouble_offers_another_try(front_door: FrontDoor, error: str) -> None:
    async with front_door.browser() as browser:
        state = _query(await _returned(front_door, browser))["state"]
        page = await browser.open(f"{CALLBACK}?error={error}&error_description=Sorry&state={state}")
    assert "Trying again often helps" in page.text
    assert "start again" in page.text


@pytest.mark.parametrize("place", ["callback", "token_endpoint_409", "token_endpoint_400"])
async def test_case_015_an_existing_install_of_the_account_is_continued(front_door: FrontDoor, place: str) -> None:
    async with front_door.browser() as browser:
        await front_door.connect(browser)
        front_door.sandbox.state.set_switches({"install_exists": place})
        page = await front_door.connect(browser)
    assert page.url.path.startswith("/status/")
    (install,) = await front_door.installs()
    assert install.status is InstallStatus.PROVISIONING
    # Provisioning refreshes the token before its first call: see case 34.
    assert [entry.kind for entry in await front_door.queued()] == [PROVISION, PROVISION]


async def test_case_016_an_existing_install_of_somebody_else_leads_to_the_manual_key(
    front_door: FrontDoor, leak_watch: LeakWatch
) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")  # a field of the form that asks for the key
    async with front_door.browser() as browser, front_door.browser() as second:
        await front_door.connect(browser)
        page = await front_door.connect(second, link=await front_door.link("acct_other"))
        assert page.status_code == 409
        assert "already connected to this workspace" in page.text
        key_page = await second.submit(page)
        assert key_page.status_code == 200
        assert "ews_" in key_page.text
        again = await second.submit(page)
        assert again.status_code == 400
        assert "ews_" not in again.text
    assert len(await front_door.installs()) == 1


async def test_case_016_nobody_else_gets_the_manual_key(front_door: FrontDoor, leak_watch: LeakWatch) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")
    async with front_door.browser() as browser, front_door.browser() as thief:
        await front_door.connect(browser)
        page = await front_door.connect(browser, link=await front_door.link("acct_other"))
        stolen = await thief.submit(page)
    assert stolen.status_code == 400
    assert "ews_" not in stolen.text


@pytest.mark.parametrize("parameter", ["error", "error_description", "error_hint", "state"])
async def test_case_017_script_in_the_query_is_inert(front_door: FrontDoor, parameter: str) -> None:
    query = {"error": "access_denied", "error_description": "x", "error_hint": "y", "state": "z"}
    query[parameter] = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    async with front_door.client() as http:
        page = await http.get(CALLBACK, params=query)
    assert "<script" not in page.text
    assert "<img" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_case_018_unknown_parameters_are_ignored(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        page = await browser.open(await _returned(front_door, browser) + "&utm_source=a&utm_source=b&session=1")
    assert page.url.path.startswith("/status/")


async def test_case_019_a_reload_ends_on_the_same_page_without_a_second_exchange(
    front_door_on_both: FrontDoor,
) -> None:
    door = front_door_on_both
    async with door.browser() as browser:
        url = await _returned(door, browser)
        first = await browser.open(url)
        second = await browser.open(url)
    assert first.status_code == second.status_code == 200
    assert first.url.path.partition(".")[0] == second.url.path.partition(".")[0]
    assert door.exchanges == 1


async def test_case_019_a_reload_of_a_failure_shows_the_failure_again(front_door: FrontDoor) -> None:
    front_door.fault("POST /oauth2/token", status=400, body='{"error":"invalid_grant","status_code":400}')
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        pages = [await browser.open(url) for _ in range(2)]
    assert {page.status_code for page in pages} == {400}
    assert front_door.exchanges == 1


async def test_oa_04_a_hundred_identical_callbacks_exchange_once(front_door_on_both: FrontDoor) -> None:
    """``CALLBACK_RACE_ROUNDS=100`` repeats the race as often."""
    door = front_door_on_both
    for before in range(int(os.environ.get("CALLBACK_RACE_ROUNDS", "1"))):
        async with door.browser() as browser:
            url = await _returned(door, browser)
            answers = await asyncio.gather(*(browser.reload(url) for _ in range(100)))
        assert door.exchanges == before + 1
        (install,) = await door.installs()
        assert {answer.status_code for answer in answers} <= {200, 303}
        door.sandbox.state.world.uninstall(install.install_name)


async def test_case_020_a_closed_consent_tab_leaves_nothing_connected(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        await front_door.to_consent(browser)
        front_door.clock.moved = timedelta(days=2)
        # The next start sweeps away what was never finished.
        await front_door.to_consent(browser)
    assert await front_door.installs() == []
    async with front_door.database.transaction() as session:
        assert (await session.exec(select(func.count()).select_from(FlowState))).one() == 1


async def test_a_member_who_owns_nothing_is_told_by_segment_and_by_us(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        page = await browser.open(await front_door.link())
        assert "Workspace Owner" in page.text
        consent = await front_door.to_consent(browser, user="member@northwind.example")
    assert "do not own a workspace" in consent.text


async def test_head_and_prefetch_of_the_callback_use_nothing_up(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        url = await _returned(front_door, browser)
        http = browser.http
        assert (await http.head(url)).status_code == 204
        assert (await http.get(url, headers={"Sec-Purpose": "prefetch"})).status_code == 204
        assert front_door.exchanges == 0
        assert (await browser.open(url)).url.path.startswith("/status/")


@pytest.mark.parametrize(
    "path", ["/auth/segment/callback", "/auth/segment", "/connect/nothing", "/status/nothing", "/"]
)
async def test_oa_13_pages_cannot_be_framed_cached_or_referred_from(front_door: FrontDoor, path: str) -> None:
    async with front_door.client() as http:
        page = await http.get(f"{SERVICE}{path}")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] in {"no-referrer", "same-origin"}
    assert "<script" not in page.text
