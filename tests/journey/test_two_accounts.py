"""Two browsers and two accounts in a real Chromium: the right account is connected, or nothing is (OA-21)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from enable_with_segment.db.control import installs
from enable_with_segment.db.control.tables import Install
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.segment_sandbox.server import listening
from tests.journey.chromium import running_chromium
from tests.journey.deployment import Deployment
from tests.journey.partner_page import partner_site

SESSION = '''"""Who is signed in to the partner's product: a cookie says so."""


async def signed_in(request):
    return request.cookies.get("acme_account")
'''


@pytest.fixture
def partner(deployment: Deployment) -> Deployment:
    """A service that asks the partner's product who is signed in."""
    (deployment.folder / "acme_session.py").write_text(SESSION, encoding="utf-8")
    deployment.environment["PARTNER_SESSION"] = "acme_session:signed_in"
    deployment.serve()
    return deployment


@contextlib.asynccontextmanager
async def person(chromium: Browser, deployment: Deployment, account: str | None) -> AsyncIterator[BrowserContext]:
    """A browser in which somebody is signed in to the partner's product as an account, or nobody."""
    context = await chromium.new_context(java_script_enabled=False)
    try:
        await sign_in(context, deployment, account)
        yield context
    finally:
        await context.close()


async def sign_in(context: BrowserContext, deployment: Deployment, account: str | None) -> None:
    """Sign in to the partner's product."""
    await context.clear_cookies(name="acme_account")
    if account is not None:
        await context.add_cookies([{"name": "acme_account", "value": account, "url": deployment.url}])


async def to_consent(page: Page, link: str) -> None:
    """Walk from a connect link to Segment's consent page."""
    await page.goto(link)
    await page.get_by_role("button", name="Continue to Segment").click()
    await log_in_to_segment(page)


async def log_in_to_segment(page: Page) -> None:
    owner = page.get_by_role("button", name="Northwind owner")
    allow = page.get_by_role("button", name="Allow")
    await expect(owner.or_(allow).first).to_be_visible()
    if await owner.is_visible():
        await owner.click()


async def allow(page: Page) -> None:
    """Choose the source and allow."""
    await page.get_by_label("Source").select_option(label="Web (production)")
    await page.get_by_role("button", name="Allow").click()


async def connected(page: Page, account: str) -> None:
    """The page shows the account's own connection."""
    await expect(page.get_by_role("heading", level=1)).to_have_text("Connected to Segment", timeout=20_000)
    await expect(page.get_by_text(account)).to_be_visible()


async def stored(deployment: Deployment) -> list[Install]:
    """Every install of the service."""
    async with open_stores(deployment.settings()) as stores, stores.control.transaction() as session:
        return await installs.list_all(session)


async def exchanges(deployment: Deployment) -> int:
    """How often a code was brought to Segment."""
    answer = await deployment.http.get(f"{deployment.sandbox}/_sandbox/requests")
    return sum(found["path"] == "/oauth2/token" for found in answer.json()["requests"])


async def test_oa_21_a_forwarded_link_connects_nobody_elses_account(chromium: Browser, partner: Deployment) -> None:
    link = await partner.link("acct_one")
    async with person(chromium, partner, "acct_two") as other, person(chromium, partner, "acct_one") as owner:
        page = await other.new_page()
        await page.goto(link)
        await expect(page.get_by_role("heading", level=1)).to_have_text("This link is for another account")
        assert await stored(partner) == []
        page = await owner.new_page()
        await to_consent(page, link)
        await allow(page)
        await connected(page, "acct_one")
    assert [install.account for install in await stored(partner)] == ["acct_one"]


async def test_oa_21_a_link_opened_where_nobody_is_signed_in_names_the_account_first(
    chromium: Browser, partner: Deployment
) -> None:
    link = await partner.link("acct_one")
    async with person(chromium, partner, None) as colleague:
        page = await colleague.new_page()
        await page.goto(link)
        await expect(page.get_by_text("acct_one")).to_be_visible()
        assert await exchanges(partner) == 0
        await to_consent(page, link)
        await allow(page)
        await connected(page, "acct_one")


async def test_oa_21_a_forwarded_authorization_request_connects_nothing(chromium: Browser, partner: Deployment) -> None:
    """The attacker starts, and the victim is made to allow: the answer comes back to a browser that didn't start."""
    async with person(chromium, partner, "acct_one") as attacker, person(chromium, partner, "acct_two") as victim:
        started = await attacker.request.get(f"{partner.url}/auth/segment", max_redirects=0)
        page = await victim.new_page()
        await page.goto(started.headers["location"])
        await log_in_to_segment(page)
        await allow(page)
        heading = page.get_by_role("heading", level=1)
        await expect(heading).to_have_text("This connection was started in another browser")
    assert await stored(partner) == []
    assert await exchanges(partner) == 0


async def test_oa_21_signing_in_as_somebody_else_meanwhile_connects_nothing(
    chromium: Browser, partner: Deployment
) -> None:
    async with person(chromium, partner, "acct_one") as browser:
        page = await browser.new_page()
        await to_consent(page, await partner.link("acct_one"))
        await sign_in(browser, partner, "acct_two")
        await allow(page)
        await expect(page.get_by_role("heading", level=1)).to_have_text("This link is for another account")
        assert await stored(partner) == []
        assert await exchanges(partner) == 0
        await page.reload()
        await expect(page.get_by_role("heading", level=1)).to_have_text("This link is for another account")
        await sign_in(browser, partner, "acct_one")
        await page.reload()
        await expect(page.get_by_role("heading", level=1)).not_to_contain_text("Connected")
    assert await stored(partner) == []


async def test_oa_06_two_tabs_finish_in_either_order_for_the_same_account(
    chromium: Browser, partner: Deployment
) -> None:
    async with person(chromium, partner, "acct_one") as browser:
        first, second = await browser.new_page(), await browser.new_page()
        await to_consent(first, await partner.link("acct_one"))
        await to_consent(second, await partner.link("acct_one"))
        await allow(second)
        await connected(second, "acct_one")
        await allow(first)
        await connected(first, "acct_one")
    assert [install.account for install in await stored(partner)] == ["acct_one"]


async def test_back_and_reload_connect_once(chromium: Browser, partner: Deployment) -> None:
    async with person(chromium, partner, "acct_one") as browser:
        page = await browser.new_page()
        callbacks: list[str] = []
        page.on("request", lambda request: callbacks.append(request.url) if "/callback?" in request.url else None)
        await to_consent(page, await partner.link("acct_one"))
        await allow(page)
        await connected(page, "acct_one")
        await page.reload()
        await connected(page, "acct_one")
        await page.go_back()
        await page.go_forward()
        await connected(page, "acct_one")
        await page.goto(callbacks[0])
        await connected(page, "acct_one")
    assert [install.account for install in await stored(partner)] == ["acct_one"]
    assert await exchanges(partner) == 1


async def test_em_08_the_flow_needs_no_third_party_cookie(partner: Deployment) -> None:
    """From the button on the partner's own site, in a browser that blocks every third-party cookie."""
    link = await partner.link("acct_one")
    async with (
        running_chromium("--test-third-party-cookie-phaseout") as browser,
        listening(partner_site(partner.url, link)) as site,
    ):
        page = await browser.new_page()
        await page.goto(site)
        await page.get_by_role("link", name="Enable with Segment").click()
        await page.get_by_role("button", name="Continue to Segment").click()
        await log_in_to_segment(page)
        await allow(page)
        await connected(page, "acct_one")
    assert [install.account for install in await stored(partner)] == ["acct_one"]


async def test_em_06_the_flow_ends_in_a_tab_without_opener_and_the_partner_learns_it(
    chromium: Browser, partner: Deployment
) -> None:
    """The partner's page keeps no hold of the tab; its own backend asks ours."""
    created = await partner.command("api-tokens", "create", "--name", "t", "--scope", "installs:read", "--json")
    bearer = {"Authorization": f"Bearer {json.loads(created.output)['token']}"}
    link = await partner.link("acct_one")

    async def settings_page(_: Request) -> Response:
        return HTMLResponse(
            f'<!doctype html><title>Settings</title><a href="{link}" target="_blank" rel="noopener">Go</a>'
        )

    async with (
        listening(Starlette(routes=[Route("/", settings_page)])) as site,
        person(chromium, partner, "acct_one") as customer,
    ):
        page = await customer.new_page()
        await page.goto(site)
        async with customer.expect_page() as opened:
            await page.get_by_role("link", name="Go").click()
        tab = await opened.value
        await tab.wait_for_load_state()
        assert await tab.evaluate("window.opener === null")
        await tab.get_by_role("button", name="Continue to Segment").click()
        await log_in_to_segment(tab)
        await allow(tab)
        await connected(tab, "acct_one")
    answer = await partner.http.get(f"{partner.url}/api/v1/installs?account=acct_one", headers=bearer)
    assert [found["status"] for found in answer.json()["installs"]] == ["connected"]
