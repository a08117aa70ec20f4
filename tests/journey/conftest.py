"""One sandbox process and one browser for all journeys; a fresh deployment of the service for every test.

The sandbox is reset for each, and a browser's contexts know nothing of each other. Whoever talks to a browser has to
stay in one event loop, so all journeys share one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.demo.processes import free_port
from tests.journey.chromium import running_chromium
from tests.journey.deployment import Deployment, sandbox_environment
from tests.journey.processes import Running

_JOURNEYS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the journeys into one event loop."""
    for item in items:
        if item.path.is_relative_to(_JOURNEYS) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@dataclass(frozen=True)
class Segment:
    """A running sandbox, and the port at which it expects the partner's service."""

    url: str
    partner_port: int


@pytest.fixture(scope="session")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    """``enable-with-segment sandbox`` as a process; it has to stop cleanly at the end."""
    folder, port, partner_port = tmp_path_factory.mktemp("sandbox"), free_port(0), free_port(0)
    running = Running(
        ["sandbox", "--port", str(port)], sandbox_environment(partner_port), folder / "sandbox.log", folder, fresh=True
    )
    try:
        running.wait_for("Segment sandbox ready on")
        yield Segment(f"http://127.0.0.1:{port}", partner_port)
        assert running.terminate() == 0
    finally:
        running.clean_up()


@pytest_asyncio.fixture(loop_scope="session")
async def deployment(segment: Segment, tmp_path: Path) -> AsyncIterator[Deployment]:
    """A service that is not started yet, on empty SQLite stores, beside a sandbox as new."""
    async with httpx.AsyncClient(timeout=30) as http:
        (await http.post(f"{segment.url}/_sandbox/reset")).raise_for_status()
        made = Deployment(tmp_path, segment.url, segment.partner_port, generate_encryption_key(), http)
        try:
            yield made
        finally:
            for running in made.started:
                running.clean_up()
            await made.look_for_leaks()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """A Chromium without a window."""
    async with running_chromium() as browser:
        yield browser
