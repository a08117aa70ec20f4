"""A real Chromium without a window, in which nothing goes wrong unnoticed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.announce import browser as find_chromium

WIDE, NARROW = 1280, 390
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]


@asynccontextmanager
async def running_chromium(*arguments: str) -> AsyncIterator[Browser]:
    """Run a Chromium while the block lasts; each context in it is a browser of its own.

    Args:
        arguments: of the command line, beside the usual ones.
    """
    found = find_chromium()
    if found is None:
        pytest.skip("the browser tests were NOT run: there is no Chromium. Get one with: apt-get install chromium")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=found, args=[*_ARGUMENTS, *arguments])
        try:
            yield launched
        finally:
            await launched.close()


@dataclass
class Watched:
    """A browser context in which nothing goes wrong unnoticed."""

    context: BrowserContext
    problems: list[str] = field(default_factory=list)

    async def page(self) -> Page:
        """Open a tab."""
        page = await self.context.new_page()
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self._note("error", str(error)))
        page.on("requestfailed", lambda request: self._note("error", f"{request.url} {request.failure}"))
        return page

    def _note(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.problems.append(text)


@asynccontextmanager
async def watched(chromium: Browser, *, javascript: bool = True, width: int = WIDE) -> AsyncIterator[Watched]:
    """A fresh context; fails at the end if the console showed an error, a warning or a violated policy."""
    context = await chromium.new_context(java_script_enabled=javascript, viewport={"width": width, "height": 900})
    watching = Watched(context)
    try:
        yield watching
        assert watching.problems == []
    finally:
        await context.close()


async def sideways(page: Page) -> int:
    """How many pixels of the page lie beyond its right edge."""
    return int(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
