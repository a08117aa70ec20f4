"""The customer's pages and the partner's button in a real Chromium."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import Browser, Locator, Page, expect

from enable_with_segment.segment_sandbox.server import listening
from tests.journey.chromium import NARROW, SCHEMES, WIDE, sideways, watched
from tests.journey.deployment import Deployment, until
from tests.journey.partner_page import partner_site


async def test_whole_flow_without_javascript(chromium: Browser, deployment: Deployment, tmp_path: Path) -> None:
    """Click by click as a customer does, from the connect link to "receiving"; then a link that is used up."""
    deployment.serve()
    link = await deployment.link("acct_northwind")
    async with watched(chromium, javascript=False) as customer:
        page = await customer.page()
        await page.goto(link)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Send your Segment data to Acme CRM")
        await expect(page.get_by_text("acct_northwind")).to_be_visible()
        await page.screenshot(path=tmp_path / "connect.png")
        await page.get_by_role("button", name="Continue to Segment").click()
        await page.get_by_role("button", name="Northwind owner").click()
        await page.get_by_label("Source").select_option(label="Web (production)")
        await page.screenshot(path=tmp_path / "consent.png")
        await page.get_by_role("button", name="Allow").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Connected to Segment", timeout=20_000)
        assert urlsplit(page.url).path.startswith("/status/")

        await deployment.send("identify", userId="cust_1", messageId="m-1", traits={"email": "kim@mail.example"})
        await expect(page.get_by_role("heading", level=1)).to_have_text("Receiving events", timeout=20_000)
        await expect(page.get_by_text("Last event")).to_be_visible()
        await page.screenshot(path=tmp_path / "status.png")

    async with watched(chromium, javascript=False) as stranger:
        page = await stranger.page()
        await page.goto(link)
        await expect(page.get_by_role("heading", level=1)).to_have_text("This link can't be used")
        await page.screenshot(path=tmp_path / "failure.png")
        stranger.problems.remove("Failed to load resource: the server responded with a status of 404 (Not Found)")


async def test_pages_fit_and_can_be_used_by_keyboard(chromium: Browser, deployment: Deployment, tmp_path: Path) -> None:
    """Wide and narrow, light and dark: nothing has to be scrolled sideways, and Tab reaches what Enter presses."""
    deployment.serve()
    account = "acct_" + "northwind-traders-international-" * 5
    status_url = await deployment.connect(await deployment.link(account))
    await deployment.reaches(status_url, "connected")
    connect_url = await deployment.link(account)
    pages = {
        "status": status_url,
        "failure": f"{deployment.url}/auth/segment/callback?error=invalid_scope&error_description=x",
        "home": f"{deployment.url}/",
        "connect": connect_url,
    }
    async with watched(chromium) as customer:
        page = await customer.page()
        for name, address in pages.items():
            await page.goto(address)
            await fits_and_follows_the_scheme(page, name, tmp_path)
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="Continue to Segment")).to_be_focused()
        assert await computed(page, "document.activeElement", "outlineStyle") == "solid"
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Log in as")
        customer.problems.remove("Failed to load resource: the server responded with a status of 400 (Bad Request)")


async def fits_and_follows_the_scheme(page: Page, name: str, folder: Path) -> None:
    shades = set()
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme)
        shades.add(await computed(page, "document.body", "backgroundColor"))
        for width in (WIDE, NARROW):
            await page.set_viewport_size({"width": width, "height": 900})
            assert await sideways(page) == 0, f"{name} at {width} px has to be scrolled sideways"
            await page.screenshot(path=folder / f"{name}-{width}-{scheme}.png")
    assert len(shades) == 2, f"{name} looks the same in light and dark"


async def test_em_07_button_on_a_partner_page_with_a_strict_policy(
    chromium: Browser, deployment: Deployment, tmp_path: Path
) -> None:
    """The script draws a link that leads to our connect page; without the script the plain link does, too."""
    deployment.serve()
    link = await deployment.link("acct_northwind")
    async with listening(partner_site(deployment.url, link)) as partner:
        async with watched(chromium, width=NARROW) as customer:
            page = await customer.page()
            await page.goto(partner)
            button = page.get_by_role("link", name="Enable with Segment")
            await expect(button).to_have_css("background-color", "rgb(18, 128, 92)")
            await expect(button).to_have_attribute("rel", "noopener")
            await leads_to_the_connect_page(page, button, link, tmp_path / "button.png")
        async with watched(chromium, javascript=False) as customer:
            page = await customer.page()
            await page.goto(partner)
            button = page.get_by_role("link", name="Enable with Segment")
            await leads_to_the_connect_page(page, button, link, tmp_path / "plain-link.png")
        async with watched(chromium) as customer:
            page = await customer.page()
            await page.goto(f"{partner}/thief")

            async def refused() -> bool | None:
                return any("frame-ancestors" in problem for problem in customer.problems) or None

            await until(refused, "the browser refuses to frame the connect page")
            customer.problems.clear()


async def leads_to_the_connect_page(page: Page, button: Locator, link: str, picture: Path) -> None:
    await expect(button).to_have_attribute("href", link)
    assert await sideways(page) == 0
    await page.keyboard.press("Tab")
    await expect(button).to_be_focused()
    await page.screenshot(path=picture)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Send your Segment data to Acme CRM")


async def computed(page: Page, element: str, style: str) -> str:
    return str(await page.evaluate(f"getComputedStyle({element}).{style}"))
