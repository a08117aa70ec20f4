"""The dashboard in a real Chromium: in by the printed link, look at everything, act, and out again."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import Browser, Page, expect

from tests.journey.chromium import NARROW, SCHEMES, WIDE, sideways, watched
from tests.journey.deployment import Deployment

PAGES = ("Installs", "Events", "Dead letters", "Keys", "Audit")


def printed_link(deployment: Deployment) -> str:
    """The link that the first start printed."""
    (link,) = re.findall(r"dashboard \(works once, within 15 minutes\): (\S+)", deployment.log.read_text())
    return str(link)


async def act(page: Page, name: str, reason: str) -> None:
    """Unfold an act, say why, and do it."""
    details = page.locator("details", has=page.get_by_text(f"{name}…", exact=True))
    await details.locator("summary").click()
    await details.get_by_label("Reason").fill(reason)
    await details.get_by_role("button", name=name).click()


async def test_an_operator_works_without_javascript(chromium: Browser, deployment: Deployment, tmp_path: Path) -> None:
    deployment.serve()
    account = "acct_" + "northwind-traders-international-" * 4
    status_url = await deployment.connect(await deployment.link(account))
    install = (await deployment.reaches(status_url, "connected"))["install"]
    await deployment.send("identify", userId="cust_1", messageId="m-1", traits={"email": "kim@mail.example"})
    await deployment.handled("m-1")
    link = printed_link(deployment)
    async with watched(chromium, javascript=False) as operator:
        page = await operator.page()
        await page.goto(f"{deployment.url}/dashboard")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in to the dashboard")
        await page.goto(link)
        await page.get_by_role("button", name="Sign in on this machine").click()
        await expect(page.get_by_role("link", name=account)).to_be_visible()
        for name in PAGES:
            await page.get_by_role("link", name=name, exact=True).click()
            await expect(page.locator("nav [aria-current]")).to_have_text(name)
            for width in (WIDE, NARROW):
                await page.set_viewport_size({"width": width, "height": 900})
                assert await sideways(page) == 0, f"{name} at {width} px has to be scrolled sideways"
                for scheme in SCHEMES:
                    await page.emulate_media(color_scheme=scheme)
                    await page.screenshot(path=tmp_path / f"{name}-{width}-{scheme}.png")
            await page.set_viewport_size({"width": WIDE, "height": 900})

        await page.goto(f"{deployment.url}/dashboard/events/m-1")
        await expect(page.locator("pre")).to_contain_text("•••")
        await act(page, "Show values", "a customer asked")
        await expect(page.locator("pre")).to_contain_text("kim@mail.example")

        await page.goto(f"{deployment.url}/dashboard/installs/{install}")
        await act(page, "Reconcile", "to be sure")
        await act(page, "Disconnect", "the customer left")
        await expect(page.locator("h1 .mark")).to_have_text(re.compile("disconnecting|disconnected"))
        await expect(page.get_by_role("cell", name="the customer left")).to_be_visible()
        await deployment.reaches(status_url, "disconnected")

        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in to the dashboard")
        await page.go_back()
        await page.reload()
        assert urlsplit(page.url).path in {"/dashboard/sign-in", f"/dashboard/installs/{install}"}
        await page.goto(link)
        await page.get_by_role("button", name="Sign in on this machine").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("This link can’t be used")
        operator.problems[:] = [problem for problem in operator.problems if "404" not in problem]
