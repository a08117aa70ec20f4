"""The whole path from a saved install to a destination, over a sandbox, with clocks and wires in a test's hands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from enable_with_segment import Subscription
from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import api_keys as stored_keys
from enable_with_segment.db.control import audit, destinations, install_tokens, installs, outbox
from enable_with_segment.db.control.tables import ApiKey, AuditEntry, Install, InstallStatus, OutboxEntry
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.identifiers import new_id
from enable_with_segment.installs.announcer import InstallAnnouncer
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.outbox_worker import OutboxWorker
from enable_with_segment.installs.provisioning.plan import Component
from enable_with_segment.installs.provisioning.provisioner import Provisioner
from enable_with_segment.installs.reconciliation import Policy, Reconciler
from enable_with_segment.installs.record import PROVISION
from enable_with_segment.installs.removal import RemovedInstalls
from enable_with_segment.installs.tokens import REMOVAL_GRACE, InstallTokens
from enable_with_segment.segment_api.config_api import ConfigApi
from enable_with_segment.segment_api.grants import InstallGrant
from enable_with_segment.segment_api.rate_limiter import RateLimiter
from enable_with_segment.segment_sandbox import Sandbox
from enable_with_segment.segment_sandbox.faults import Fault
from enable_with_segment.segment_sandbox.world import Destination
from tests.segment_api.wire import CLIENT_ID, CONFIG_API, DESTINATION, SCOPE, SOURCE, Wire, consent, identity_client

WORKSPACE = "workspaces/northwind"
DESTINATIONS = f"/v1beta/{SOURCE}/destinations"
ONE = f"/v1beta/{DESTINATION}"
CONNECTED = ("connected", None)
HOURS = timedelta(hours=6)
UPSTREAM = "upstream connect error or disconnect/reset before headers"
EXISTS = '{"error":"destination already exists or other internal error","code":13}'


@dataclass
class TestClock:
    """A clock that stands still until it is moved."""

    __test__ = False
    now: datetime = field(default_factory=utc_now)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **span: float) -> None:
        self.now += timedelta(**span)


class Stage:
    """One service in front of one sandbox."""

    def __init__(
        self,
        database: Database,
        encryption: EncryptionKeys,
        api_keys: ApiKeys,
        *,
        sandbox: Sandbox | None = None,
        defaults: Mapping[str, object] | None = None,
        overwrite_policy: Literal["ask", "always"] = "ask",
        client_secret: str = "q7VtR2mZk9Lp",
        reconcile: Policy = "report",
    ) -> None:
        self.database = database
        self.encryption = encryption
        self.api_keys = api_keys
        self.sandbox = sandbox or Sandbox()
        self.clock = TestClock()
        self.wire = Wire(self.sandbox.app)
        self.identity = identity_client(self.wire, client_secret=client_secret)
        self.tokens = InstallTokens(database, encryption, self.identity, self.clock)
        self.config_api = ConfigApi(CONFIG_API, transport=self.wire, limiter=RateLimiter(1_000_000))
        self.provisioner = Provisioner(
            database,
            api_keys,
            self.tokens,
            self.config_api,
            {"acme-crm": Component("acme-crm", "acme-crm", defaults or {})},
            clock=self.clock,
            overwrite_policy=overwrite_policy,
        )
        self.reconciler = Reconciler(
            database, api_keys, self.tokens, self.config_api, policy=reconcile, clock=self.clock
        )
        self.removed = RemovedInstalls(database, api_keys, self.tokens, grace=REMOVAL_GRACE, clock=self.clock)
        self.subscription = Subscription("acme-crm")
        self.changes: list[tuple[str, str | None]] = []
        self.announcer = InstallAnnouncer(database, {"acme-crm": self.subscription})

        @self.subscription.on_install()
        async def remember(change: str, reason: str | None) -> None:
            self.changes.append((change, reason))

        self.worker = OutboxWorker(
            database,
            {
                **self.provisioner.outbox_handlers(),
                **self.reconciler.outbox_handlers(),
                **self.removed.outbox_handlers(),
                **self.announcer.outbox_handlers(),
            },
            owner=new_id("own"),
            clock=self.clock,
            given_up=self.provisioner.give_up,
            jitter=lambda: 0.0,
        )

    async def work_for(self, *, at_most_every: timedelta = timedelta(0), **span: float) -> None:
        """Let time pass: what becomes due meanwhile is done at its moment, or a little later to save time."""
        end = self.clock.now + timedelta(**span)
        while True:
            await self.worker.run_due()
            async with self.database.transaction() as session:
                due = await outbox.next_due(session)
            if due is None or due > end or self.clock.now == end:
                break
            self.clock.now = min(end, max(due, self.clock.now + at_most_every))
        self.clock.now = end
        await self.worker.run_due()

    async def close(self) -> None:
        await self.identity.aclose()
        await self.config_api.aclose()

    async def grant(self) -> InstallGrant:
        """Let the customer allow it, and exchange the code; forgets what went over the wire for that."""
        query = await consent(self.sandbox, self.identity.authorization_url(state="s" * 32, code_verifier=None))
        granted = await self.identity.exchange_code(query["code"], code_verifier=None)
        self.wire.sent.clear()
        return granted

    async def install(
        self, *, settings: Mapping[str, object] | None = None, source: str | None = SOURCE, scope: str = SCOPE
    ) -> str:
        """Save a granted install as the callback does, provisioning queued; returns its id."""
        return await self.save(await self.grant(), settings=settings, source=source, scope=scope)

    async def installs(self, count: int) -> list[str]:
        """Save installs on workspaces of their own, all granted without a browser; provisioning is queued."""
        world, now = self.sandbox.state.world, self.sandbox.state.now()
        (app,) = (app for app in world.apps.values() if app.seed.client_id == CLIENT_ID)
        ids = []
        for number in range(count):
            workspace = world.add_workspace(f"customer-{len(world.workspaces)}-{number}", "", now)
            source = world.add_source(workspace, "web", now)
            made = world.add_install(app, workspace.name, source.name, "owner@northwind.example", now)
            token = world.issue_token(made, f"token-of-{workspace.slug}", now)
            granted = InstallGrant(token.value, 3600, SCOPE, app.name, made.name, workspace.name, (source.name,))
            ids.append(await self.save(granted, source=source.name))
        return ids

    async def save(
        self,
        granted: InstallGrant,
        *,
        settings: Mapping[str, object] | None = None,
        source: str | None = SOURCE,
        scope: str = SCOPE,
    ) -> str:
        install_id, now = new_id("ins"), self.clock()
        async with self.database.transaction() as session:
            session.add(
                Install(
                    id=install_id,
                    account="northwind",
                    component="acme-crm",
                    install_name=granted.install_name,
                    workspace_name=granted.workspace_name,
                    source_name=source,
                    scope=scope,
                    status=InstallStatus.PROVISIONING,
                    settings=dict(settings or {}),
                    created_at=now,
                    updated_at=now,
                )
            )
            await session.flush()
            await install_tokens.save(
                session,
                self.encryption,
                install_id,
                granted.access_token,
                expires_at=now + timedelta(seconds=granted.expires_in),
                now=now,
            )
            await outbox.add(session, PROVISION, install_id, now=now, payload={"overwrite": False})
        return install_id

    async def row(self, install_id: str) -> Install:
        async with self.database.transaction() as session:
            found = await installs.get(session, install_id)
        assert found is not None
        return found

    async def outcome(self, install_id: str) -> tuple[str, str | None]:
        """An install's status and reason."""
        row = await self.row(install_id)
        return row.status.value, row.status_reason

    async def usable_keys(self, install_id: str) -> list[ApiKey]:
        """The install's keys that are neither revoked nor on their way out."""
        async with self.database.transaction() as session:
            keys = await stored_keys.list_all(session)
        return [key for key in keys if key.install_id == install_id and not key.revoked_at and not key.expires_at]

    async def clear_key(self, install_id: str) -> str:
        """The clear text of the install's one usable key."""
        (key,) = await self.usable_keys(install_id)
        async with self.database.transaction() as session:
            return await self.api_keys.reveal(session, key.id, purpose="test")

    async def stored_destination(self, install_id: str) -> dict[str, object]:
        async with self.database.transaction() as session:
            found = await destinations.get(session, install_id)
        assert found is not None
        return {"desired": found.desired, "seen": found.seen, "verified": found.verified_at is not None}

    async def access_token(self, install_id: str) -> str:
        """The stored token in clear."""
        async with self.database.transaction() as session:
            row = await install_tokens.get(session, install_id)
            assert row is not None
            assert row.access_token_ciphertext is not None
            return self.encryption.decrypt(row.access_token_ciphertext, install_tokens.place(install_id))

    async def audited(self) -> list[AuditEntry]:
        async with self.database.transaction() as session:
            return await audit.list_newest(session, limit=1000)

    async def open_entries(self, install_id: str) -> list[OutboxEntry]:
        async with self.database.transaction() as session:
            return await outbox.open_of_install(session, install_id)

    def destination(self, source: str = SOURCE) -> Destination:
        """What Segment really holds."""
        return self.sandbox.state.world.destinations[f"{source}/destinations/acme-crm"]

    def has_destination(self) -> bool:
        return bool(self.sandbox.state.world.destinations)

    def put_destination(self, *, api_key: str, enabled: bool, region: str = "us") -> Destination:
        """Let there be a destination already, made by hand."""
        now = self.sandbox.state.now()
        config: dict[str, object] = {"region": region, "apiKey": api_key}
        made = Destination(SOURCE, "acme-crm", enabled, "CLOUD", config, now, now)
        self.sandbox.state.world.destinations[made.name] = made
        return made

    def fault(self, route: str, times: int | None = 1, **fault: object) -> None:
        """Let the sandbox fail on the next requests to a route."""
        self.sandbox.state.faults.add(route, Fault(**fault), times)  # type: ignore[arg-type]
