"""The service's front door over real stores, and the sandbox behind it, in one event loop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlmodel import select
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse

from enable_with_segment.components.setting import Setting
from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import installs, service_secrets
from enable_with_segment.db.control.tables import Install, OutboxEntry
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.recent_backlog import RecentBacklog
from enable_with_segment.http_client import httpx
from enable_with_segment.installs.api_keys import ApiKeyHook, ApiKeys
from enable_with_segment.installs.connect_links import ConnectLinks
from enable_with_segment.oauth_app.demo.browser import Browser
from enable_with_segment.oauth_app.flow.cookies import FlowCookies
from enable_with_segment.oauth_app.flow.install_flow import InstallFlow
from enable_with_segment.oauth_app.observability.metrics import Metrics
from enable_with_segment.oauth_app.observability.store_metrics import StoreMetrics
from enable_with_segment.oauth_app.operators import Operators
from enable_with_segment.oauth_app.operators.api_tokens import ApiTokens
from enable_with_segment.oauth_app.operators.roles import AccessLists
from enable_with_segment.oauth_app.operators.sessions import Sessions
from enable_with_segment.oauth_app.runtime.emergency_stop import EmergencyStopSwitch
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.wiring import RunningService
from enable_with_segment.oauth_app.web.application import ServiceApplication
from enable_with_segment.oauth_app.web.pages import Pages
from enable_with_segment.oauth_app.web.rate_limits import RateLimits
from enable_with_segment.oauth_app.web.services import PartnerSession, Services
from enable_with_segment.oauth_app.web.status_links import StatusLinks
from enable_with_segment.segment_api.http import trusted
from enable_with_segment.segment_api.identity import IdentityClient
from enable_with_segment.segment_api.secret import Secret
from enable_with_segment.segment_sandbox.config import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from enable_with_segment.segment_sandbox.faults import Fault
from enable_with_segment.segment_sandbox.sandbox import Sandbox

SERVICE = "http://localhost:8888"
SEGMENT = "http://127.0.0.1:8889"


class MovingClock:
    """The real time, moved by what a test says."""

    def __init__(self) -> None:
        self.moved = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.moved


@dataclass
class FrontDoor:
    """What a test of the install flow works with."""

    app: Starlette
    services: Services
    sandbox: Sandbox
    database: Database
    clock: MovingClock
    woken: list[None]

    @contextlib.asynccontextmanager
    async def browser(self) -> AsyncIterator[Browser]:
        """A customer's browser with cookies of its own."""
        async with self.client() as http:
            yield Browser(http)

    def client(self) -> httpx.AsyncClient:
        """An HTTP client that reaches the service and the sandbox."""
        return httpx.AsyncClient(
            verify=trusted(),
            mounts={
                SERVICE: httpx.ASGITransport(self.app),
                SEGMENT: httpx.ASGITransport(self.sandbox.app),
            },
        )

    def fault(self, route: str, *, times: int | None = 1, **fault: Any) -> None:
        """Let the sandbox misbehave on a route."""
        self.sandbox.state.faults.add(route, Fault(**fault), times)

    def requests(self, path: str) -> int:
        """How often the sandbox was asked for a path."""
        return sum(record.path == path for record in self.sandbox.state.transcript.requests)

    @property
    def exchanges(self) -> int:
        """How often a code was brought to the token endpoint."""
        return self.requests("/oauth2/token")

    async def installs(self) -> list[Install]:
        """Every stored install."""
        async with self.database.transaction() as session:
            return await installs.list_all(session)

    async def queued(self) -> list[OutboxEntry]:
        """Everything that waits in the outbox."""
        async with self.database.transaction() as session:
            return list((await session.exec(select(OutboxEntry))).all())

    async def link(self, account: str = "acct_northwind", **options: Any) -> str:
        """A connect link of the service."""
        return (await self.services.connect_links.create(account, **options)).url

    async def to_consent(
        self, browser: Browser, *, link: str | None = None, user: str = "owner@northwind.example"
    ) -> httpx.Response:
        """Walk from a connect link to Segment's consent page."""
        page = await browser.submit(await browser.open(link or await self.link()))
        if page.url.path == "/login":
            page = await browser.submit(page, button=user)
        return page

    async def connect(self, browser: Browser, **options: Any) -> httpx.Response:
        """Walk the whole way, to the status page."""
        return await browser.submit(await self.to_consent(browser, **options), button="allow")


def build_front_door(
    database: Database,
    encryption: EncryptionKeys,
    secret: bytes,
    *,
    sandbox: Sandbox | None = None,
    partner_session: PartnerSession | None = None,
    api_key_hook: ApiKeyHook | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    timeout: float = 10,
    **environment: Any,
) -> FrontDoor:
    """Put the front door together over a migrated store."""
    sandbox = sandbox or Sandbox()
    clock = MovingClock()
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        **{
            "base_url": SERVICE,
            "partner_name": "Acme CRM",
            "segment_client_id": DEFAULT_CLIENT_ID,
            "segment_client_secret": DEFAULT_CLIENT_SECRET,
            "segment_destination": "acme-crm",
            "segment_identity_url": SEGMENT,
            "segment_config_api_url": f"{SEGMENT}/v1beta",
            "partner_session": "acme.web:signed_in" if partner_session else None,
            **environment,
        },
    )
    woken: list[None] = []
    identity = IdentityClient(
        identity_url=settings.segment_identity_url,
        config_api_url=settings.segment_config_api_url,
        client_id=DEFAULT_CLIENT_ID,
        client_secret=Secret(DEFAULT_CLIENT_SECRET),
        redirect_uri=settings.redirect_uri,
        scope=settings.scope,
        http=transport or httpx.ASGITransport(sandbox.app),
        timeout=timeout,
    )
    panic = EmergencyStopSwitch(database)
    api_keys = ApiKeys(database, encryption, secret, clock, hook=api_key_hook)
    event_log = open_event_log(database.engine.url.render_as_string(False).replace("control.db", "events.db"))
    recent_backlog = RecentBacklog(event_log)
    services = Services(
        settings=settings,
        component="acme-crm",
        database=database,
        event_log=event_log,
        metrics=Metrics(),
        store_metrics=StoreMetrics(database, event_log, recent_backlog, clock=clock),
        recent_backlog=recent_backlog,
        api_keys=api_keys,
        api_tokens=ApiTokens(database, clock),
        operators=Operators(
            Sessions(database, AccessLists((), (), links=True), secure=settings.secure_cookies, clock=clock), None, None
        ),
        panic=panic,
        rate_limits=RateLimits(),
        provisioner=None,
        pages=Pages(
            partner_name=settings.partner_name,
            support_url="https://acme.example/help",
            start_url="/auth/segment" if partner_session else None,
        ),
        connect_links=ConnectLinks(
            database,
            component="acme-crm",
            base_url=SERVICE,
            lifetime=timedelta(minutes=settings.connect_link_minutes),
            declared_settings=[Setting("region", choices=["us", "eu"])],
            clock=clock,
        ),
        status_links=StatusLinks(secret),
        flow=InstallFlow(
            database,
            encryption,
            identity,
            api_keys,
            FlowCookies(secret),
            component="acme-crm",
            scope=settings.scope,
            pkce=settings.segment_pkce,
            clock=clock,
        ),
        partner_session=partner_session,
        wake_outbox=lambda: woken.append(None),
        clock=clock,
    )

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[RunningService]:
        try:
            yield RunningService(services, PlainTextResponse("no webhook here"))
        finally:
            await services.recent_backlog.close()
            await panic.close()
            await identity.aclose()
            await event_log.close()

    return FrontDoor(ServiceApplication(lifespan), services, sandbox, database, clock, woken)


@pytest.fixture
async def front_door(sqlite_database: Database, encryption: EncryptionKeys) -> AsyncIterator[FrontDoor]:
    """The front door on SQLite."""
    async with sqlite_database.transaction() as session:
        secret = await service_secrets.ensure(session, encryption, "links", now=utc_now())
    door = build_front_door(sqlite_database, encryption, secret)
    async with door.app.router.lifespan_context(door.app):
        yield door


@pytest.fixture
async def front_door_on_both(database: Database, encryption: EncryptionKeys) -> AsyncIterator[FrontDoor]:
    """The front door on SQLite and on PostgreSQL."""
    async with database.transaction() as session:
        secret = await service_secrets.ensure(session, encryption, "links", now=utc_now())
    door = build_front_door(database, encryption, secret)
    async with door.app.router.lifespan_context(door.app):
        yield door
