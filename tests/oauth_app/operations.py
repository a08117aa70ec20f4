"""The whole service in this process, over fresh SQLite stores, with a client that reaches it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from enable_with_segment import Setting, Subscription
from enable_with_segment.db.control import audit, installs
from enable_with_segment.db.control.tables import AuditEntry, Install
from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.db.identifiers import new_id
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.operators.api_tokens import Scope
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.web.application import create_app
from enable_with_segment.oauth_app.web.services import Services
from enable_with_segment.segment_sandbox.config import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from tests import migrated
from tests.journey.deployment import basic
from tests.rows import an_install

SERVICE = "http://localhost:8888"

crm = Subscription("acme-crm", settings=[Setting("region", choices=["us", "eu"]), Setting("batchSize", type=int)])


@crm.on("track")
async def keep(event: object) -> None:
    """Take every event."""


@crm.on("identify")
async def refuse(event: object) -> None:
    """Fail, so that there is something to see."""
    raise ValueError("no")


@crm.on("delete")
async def forget(event: object) -> None:
    """Nothing is kept, so nothing is to be forgotten."""


@dataclass
class Operations:
    """What a test of the API or the dashboard works with."""

    app: Starlette
    settings: Settings
    http: httpx.AsyncClient

    @property
    def services(self) -> Services:
        """The service's parts."""
        services: Services = self.app.state.services
        return services

    async def token(self, *scopes: Scope, lifetime: timedelta | None = None) -> dict[str, str]:
        """The headers of a caller with an API token; every scope if none is named."""
        minted = await self.services.api_tokens.mint("test", scopes or tuple(Scope), lifetime=lifetime, actor="cli")
        return {"Authorization": f"Bearer {minted.token}"}

    async def install(self, account: str = "acct_1", number: int = 1, **values: Any) -> Install:
        """A stored install."""
        source = {"source_name": "workspaces/northwind/sources/web", "install_name": f"installs/{number}"}
        install_id = values.pop("id", None) or new_id("ins")
        install = an_install(install_id, **{"account": account, **source, **values})
        async with self.services.database.transaction() as session:
            session.add(install)
        return install

    async def api_key(self, account: str = "acct_1") -> tuple[str, str]:
        """The id and the clear text of a new API key."""
        async with self.services.database.transaction() as session:
            minted = await self.services.api_keys.mint(session, account=account, component="acme-crm")
        return minted.id, minted.api_key

    async def deliver(self, key: str, message_id: str, **event: Any) -> httpx.Response:
        """Deliver an event, as Segment would."""
        body = {"type": "track", "event": "Signed Up", "messageId": message_id, "userId": "u", **event}
        body.setdefault("timestamp", "2026-01-01T00:00:00Z")
        headers = {"Authorization": basic(key)}
        return await self.http.post(f"{SERVICE}/subscriptions/acme-crm", json=body, headers=headers)

    async def audited(self, action: str) -> list[AuditEntry]:
        """The audit's entries of an action."""
        async with self.services.database.transaction() as session:
            return await audit.list_newest(session, action=action)

    async def stored_install(self, install_id: str) -> Install:
        """An install as it is now."""
        async with self.services.database.transaction() as session:
            found = await installs.get(session, install_id)
        assert found is not None
        return found


@contextlib.asynccontextmanager
async def running_service(folder: Path, **environment: Any) -> AsyncIterator[Operations]:
    """Run the service while the block lasts, without background work."""
    migrated.lay_out(folder / "control.db")
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        **{
            "base_url": SERVICE,
            "partner_name": "Acme CRM",
            "database_url": f"sqlite+aiosqlite:///{folder}/control.db",
            "encryption_keys": generate_encryption_key(),
            "handlers": "tests.oauth_app.operations:crm",
            "segment_client_id": DEFAULT_CLIENT_ID,
            "segment_client_secret": DEFAULT_CLIENT_SECRET,
            "segment_destination": "acme-crm",
            "segment_identity_url": "http://127.0.0.1:9",
            "segment_config_api_url": "http://127.0.0.1:9/v1beta",
            **environment,
        },
    )
    app = create_app(settings, role="web")
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False)) as http,
    ):
        yield Operations(app, settings, http)
