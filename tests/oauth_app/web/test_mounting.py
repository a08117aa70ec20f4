"""The service below a path: mounted in a Starlette and in a FastAPI application, and by itself behind a proxy.

Each case is a customer's whole way over sockets: connect link, Segment's pages, status page, an event that Segment
delivers and a handler gets, and the operator's dashboard. Uvicorn and Hypercorn serve; neither has the fast path.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config as HypercornConfig
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from enable_with_segment import Event, Settings, Subscription, create_app, load_settings, open_connect_links
from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.demo.browser import Browser
from enable_with_segment.oauth_app.operators.sign_in_links import SignInLinks
from enable_with_segment.oauth_app.runtime.stores import open_control_store
from enable_with_segment.segment_sandbox.config import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    SandboxConfig,
    acme_app,
    acme_crm,
)
from enable_with_segment.segment_sandbox.sandbox import Sandbox
from tests import migrated
from tests.journey.deployment import basic, until
from tests.listening import free_port

PATH = "/integrations/segment"
DOCUMENTED = Path(__file__).parents[3] / "docs" / "mount.md"
WRITE_KEY = "northwindWebProdSandboxWriteKey1"

crm = Subscription("acme-crm")
handled: list[str | None] = []


@crm.on("track")
async def keep(event: Event) -> None:
    """Note what arrived."""
    handled.append(event.message_id)


def in_starlette() -> ASGIApp:
    """The partner's own application, as the documentation writes it."""
    return sample("Starlette")


def in_fastapi() -> ASGIApp:
    """The same with FastAPI and a lifespan of its own."""
    return sample("FastAPI")


def sample(heading: str) -> ASGIApp:
    """Run a section's block of docs/mount.md, and return its ``app``."""
    section = DOCUMENTED.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    names: dict[str, Any] = {}
    exec(section.partition("```python\n")[2].partition("```")[0], names)  # noqa: S102 - our own page
    app: ASGIApp = names["app"]
    return app


def behind_a_proxy_that_keeps_the_path() -> ASGIApp:
    """The service by itself; every request names the path of BASE_URL."""
    return create_app()


def behind_a_proxy_that_removes_the_path() -> ASGIApp:
    """The service by itself; no request names the path of BASE_URL."""
    segment = create_app()

    async def proxied(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith(PATH)
            scope = {**scope, "path": scope["path"].removeprefix(PATH) or "/", "raw_path": b"not looked at"}
        await segment(scope, receive, send)

    return proxied


@asynccontextmanager
async def by_uvicorn(app: ASGIApp, port: int) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="on", log_config=None, access_log=False))
    task = asyncio.create_task(server.serve())
    try:
        yield
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def by_hypercorn(app: ASGIApp, port: int) -> AsyncIterator[None]:
    config, ended = HypercornConfig(), asyncio.Event()
    config.bind, config.graceful_timeout = [f"127.0.0.1:{port}"], 1
    task = asyncio.create_task(hypercorn_serve(app, config, shutdown_trigger=ended.wait))  # type: ignore[arg-type]
    try:
        yield
    finally:
        ended.set()
        await task


def settings_of(folder: Path, base_url: str, sandbox: str) -> dict[str, str]:
    """What the environment of the service says."""
    return {
        "base_url": base_url,
        "partner_name": "Acme CRM",
        "database_url": f"sqlite+aiosqlite:///{folder}/control.db",
        "encryption_keys": generate_encryption_key(),
        "segment_client_id": DEFAULT_CLIENT_ID,
        "segment_client_secret": DEFAULT_CLIENT_SECRET,
        "segment_destination": "acme-crm",
        "segment_identity_url": sandbox,
        "segment_config_api_url": f"{sandbox}/v1beta",
        "handlers": f"{__name__}:crm",
    }


def settings(*arguments: Any) -> Settings:
    return Settings(**settings_of(*arguments))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ``.env``, and an empty control store."""
    monkeypatch.chdir(tmp_path)
    migrated.lay_out(tmp_path / "control.db")


@pytest.mark.parametrize(
    ("host", "served"),
    [
        (in_starlette, by_uvicorn),
        (in_fastapi, by_hypercorn),
        (behind_a_proxy_that_keeps_the_path, by_hypercorn),
        (behind_a_proxy_that_removes_the_path, by_uvicorn),
    ],
)
async def test_the_whole_journey_works_below_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: Callable[[], ASGIApp], served: Any
) -> None:
    port, handled[:] = free_port(), []
    base_url = f"http://localhost:{port}{PATH}"
    config = SandboxConfig(
        profile="documented",
        catalog=(acme_crm(f"{base_url}/subscriptions/acme-crm"),),
        apps=(acme_app(redirect_uris=(f"{base_url}/auth/segment/callback",)),),
    )
    async with (
        Sandbox(config).listening() as segment,
        httpx.AsyncClient(timeout=30) as http,
    ):
        for name, value in settings_of(tmp_path, base_url, segment).items():
            monkeypatch.setenv(name.upper(), value)
        chosen = load_settings()
        async with served(host(), port):
            await until(lambda: _ready(http, base_url), "the service is ready")
            status_url = await _connect(chosen, http, base_url)
            await until(lambda: _status(http, status_url, "connected"), "the install is connected")
            event = {"userId": "u", "event": "Paid", "messageId": "m-1"}
            sent = await http.post(f"{segment}/v1/track", json=event, headers={"Authorization": basic(WRITE_KEY)})
            assert sent.status_code == 200
            await until(_something_handled, "the event is handled")
            await until(lambda: _status(http, status_url, "receiving"), "the install is receiving")
            await _walk_the_dashboard(chosen, http, base_url)
            await _look_at_the_rest(http, base_url)
    assert handled == ["m-1"]


async def _ready(http: httpx.AsyncClient, base_url: str) -> bool | None:
    with suppress(httpx.HTTPError):
        return (await http.get(f"{base_url}/readyz")).status_code == 200 or None
    return None


async def _something_handled() -> bool | None:
    return bool(handled) or None


async def _status(http: httpx.AsyncClient, status_url: str, wanted: str) -> bool | None:
    told = (await http.get(status_url, headers={"Accept": "application/json"})).json()
    return told["status"] == wanted or None


async def _connect(settings: Settings, http: httpx.AsyncClient, base_url: str) -> str:
    """Walk from a connect link to the status page, the way of a browser, and back to the callback once more."""
    async with open_connect_links(settings) as links:
        link = await links.create("acct_northwind")
    assert link.url.startswith(f"{base_url}/connect/")
    browser = Browser(http)
    page = await browser.submit(await browser.open(link.url))
    page = await browser.submit(page, button="owner@northwind.example")
    page = await browser.submit(page, button="allow")
    assert str(page.url).startswith(f"{base_url}/status/"), page.text
    (callback,) = [hop.url for hop in browser.hops if "/auth/segment/callback?" in hop.url]
    assert callback.startswith(f"{base_url}/auth/segment/callback?")
    again = await browser.reload(callback)  # the browser still sends the flow's cookie, so the answer is the same
    assert again.headers["location"].startswith(f"{PATH}/status/")
    assert [cookie.path for cookie in http.cookies.jar if cookie.name.startswith("segment_flow_")] == [
        f"{PATH}/auth/segment"
    ]
    return str(page.url)


async def _walk_the_dashboard(settings: Settings, http: httpx.AsyncClient, base_url: str) -> None:
    """Sign in, follow every link of every page, and sign out."""
    async with open_control_store(settings) as control:
        way_in = await SignInLinks(control, base_url=settings.base_url).mint()
    browser = Browser(http)
    refused = await browser.open(f"{base_url}/dashboard/events?type=track")
    assert str(refused.url) == f"{base_url}/dashboard/sign-in?to=%2Fdashboard%2Fevents%3Ftype%3Dtrack"
    page = await browser.submit(await browser.open(way_in))
    assert str(page.url) == f"{base_url}/dashboard"
    seen, waiting = set(), [str(page.url)]
    while waiting:
        address = waiting.pop()
        page = await browser.open(address)
        assert page.status_code == 200, address
        seen.add(address)
        leads_to = re.findall(r"""(?:href|action)=["']([^"']+)["']""", page.text)
        assert all(target.startswith(f"{PATH}/") for target in leads_to), leads_to
        pages = {str(page.url.join(target)) for target in re.findall(r'<a [^>]*href="([^"]+)"', page.text)}
        waiting += pages - seen - set(waiting)
    assert len(seen) >= 7, "installs, one of them, events, one of them, dead letters, keys, audit"
    page = await browser.submit(page)
    assert str(page.url) == f"{base_url}/dashboard/sign-in"


async def _look_at_the_rest(http: httpx.AsyncClient, base_url: str) -> None:
    description = (await http.get(f"{base_url}/api/openapi.json")).json()
    assert description["servers"] == [{"url": base_url}]
    unknown = await http.get(f"{base_url}/api/v1/nothing")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert "customElements" not in (script := (await http.get(f"{base_url}/button.js")).text)
    assert "data-enable-with-segment" in script
    for path in ("/", ""):
        home = await http.get(f"{base_url}{path}", follow_redirects=True)
        assert home.status_code == 200, path
    metrics = (await http.get(f"{base_url}/metrics")).text
    assert 'http_responses_total{route="dashboard",status="200"}' in metrics
    assert 'http_responses_total{route="other"' not in metrics


async def test_a_host_that_does_not_run_the_lifespan_is_told_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segment = create_app(settings(tmp_path, f"http://localhost:8000{PATH}", "http://127.0.0.1:9"))
    app = Starlette(routes=[Mount(PATH, app=segment)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://localhost:8000{PATH}") as http:
        answers = [await http.post("/subscriptions/acme-crm"), await http.get("/dashboard")]
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in answers] == [(503, "10")] * 2
    assert caplog.text.count("lifespan=segment.lifespan") == 1


async def test_a_mount_that_base_url_does_not_name_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segment = create_app(settings(tmp_path, "http://localhost:8000/elsewhere", "http://127.0.0.1:9"))
    app = Starlette(routes=[Mount(PATH, app=segment)], lifespan=segment.lifespan)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://localhost:8000{PATH}") as http,
    ):
        for _ in range(2):
            assert (await http.get("/healthz")).status_code == 200
    assert caplog.text.count(f"mounted at {PATH}, and BASE_URL is http://localhost:8000/elsewhere") == 1


async def test_the_service_can_be_started_again_after_it_ended(tmp_path: Path) -> None:
    segment = create_app(settings(tmp_path, f"http://localhost:8000{PATH}", "http://127.0.0.1:9"))
    app = Starlette(routes=[Mount(PATH, app=segment)], lifespan=segment.lifespan)
    for _ in range(2):
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://localhost:8000{PATH}") as http,
        ):
            assert (await http.get("/readyz")).status_code == 200
