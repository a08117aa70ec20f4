"""A whole receiving service for tests: real stores, the real webhook behind Starlette, the real dispatcher."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.routing import Mount

from enable_with_segment import Event, InstallContext, Subscription
from enable_with_segment.components.event import EVENT_TYPES
from enable_with_segment.components.handler import HandlerFunction
from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import service_secrets
from enable_with_segment.db.database import Database, parse_url
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.event_log.log import EventLog, StoredEventLog
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import EventFilter, EventRecord, HandlerRecord
from enable_with_segment.http_client import httpx
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from enable_with_segment.subscriptions.dispatch.limits import DispatchLimits
from enable_with_segment.subscriptions.observer import Observer
from enable_with_segment.subscriptions.receiving.endpoint import Endpoint
from enable_with_segment.subscriptions.receiving.person_hash import PersonHash
from enable_with_segment.subscriptions.receiving.reception import Reception
from enable_with_segment.subscriptions.receiving.signed_webhook import SignedWebhook, SignedWebhookLimits
from enable_with_segment.subscriptions.receiving.webhook import Webhook, WebhookLimits
from tests import migrated

Open: TypeAlias = "Callable[..., AbstractAsyncContextManager[Receiver]]"
"""Opens a service over fresh stores for some subscriptions."""

IDENTIFY = {"type": "identify", "userId": "cust_20418", "messageId": "m-1", "traits": {"email": "k@mail.example"}}


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **units: float) -> None:
        self.now += timedelta(**units)


class Recorder:
    """A subscription whose handlers remember what they were given."""

    def __init__(self, name: str = "acme-crm", *, types: tuple[str, ...] = EVENT_TYPES, **options: Any) -> None:
        self.events: list[Event] = []
        self.installs: list[InstallContext] = []
        self.settings: list[Mapping[str, Any]] = []
        self.subscription = Subscription(name, display_name="Acme CRM", **options)
        for event_type in types:
            self.subscription.on(event_type)(self._handler())

    def _handler(self) -> HandlerFunction:
        async def record(event: Event, install: InstallContext, settings: Mapping[str, Any]) -> None:
            self.events.append(event)
            self.installs.append(install)
            self.settings.append(settings)

        return record


@dataclass
class Receiver:
    """The service under test and a sender for it."""

    database: Database
    api_keys: ApiKeys
    log: StoredEventLog
    webhook: Webhook
    dispatcher: Dispatcher
    client: httpx.AsyncClient
    clock: Clock
    key: str
    received: list[str | None]
    extra_keys: dict[str, str] = field(default_factory=dict)

    async def deliver(
        self,
        event: Mapping[str, Any] | bytes,
        *,
        key: str | None = None,
        component: str = "acme-crm",
        settings: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send one delivery as Segment does (contract 5.3)."""
        sent = {
            "Content-Type": "application/json",
            "User-Agent": "Segment.io/1.0",
            "Authorization": basic(key or self.key),
        }
        if settings is not None:
            sent["X-Segment-Settings"] = base64.b64encode(json.dumps(settings).encode()).decode()
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        return await self.client.post(f"/subscriptions/{component}", content=body, headers={**sent, **(headers or {})})

    async def deliver_tracks(self, prefix: str, count: int, *, key: str | None = None) -> None:
        """Send track events with the message ids ``prefix-0``, ``prefix-1`` ...; each has to be accepted."""
        for number in range(count):
            assert (await self.deliver(track(f"{prefix}-{number}"), key=key)).status_code == 202

    async def mint(self, account: str, *, component: str = "acme-crm", install_id: str | None = None) -> str:
        """Make one more key."""
        async with self.database.transaction() as session:
            minted = await self.api_keys.mint(session, account=account, component=component, install_id=install_id)
        self.extra_keys[minted.api_key] = minted.id
        return minted.api_key

    async def mint_signed(self, account: str = "acme", *, component: str = "acme-crm") -> tuple[str, str]:
        """Make a key of a signed destination; returns it and its signing secret."""
        async with self.database.transaction() as session:
            minted = await self.api_keys.mint(session, account=account, component=component, signed=True)
        self.extra_keys[minted.api_key] = minted.id
        assert minted.signing_secret is not None
        return minted.api_key, minted.signing_secret

    async def records(self, **wanted: Any) -> list[EventRecord]:
        """Return what is in the log, the oldest first."""
        return list(reversed(await self.log.find(EventFilter(**wanted), limit=1_000)))

    async def only(self, **wanted: Any) -> EventRecord:
        """Return the only event in the log."""
        (record,) = await self.records(**wanted)
        return record


def track(message_id: str = "m-1", name: str = "Signed Up", **changes: Any) -> dict[str, Any]:
    return {"type": "track", "userId": "u-1", "event": name, "messageId": message_id, **changes}


async def outcomes(receiver: Receiver, message_id: str = "m-1") -> dict[str, HandlerRecord]:
    (detail,) = await receiver.log.show(message_id)
    return {outcome.handler.partition(" ")[0]: outcome for outcome in detail.handlers}


def basic(key: str, password: str = "") -> str:
    """Return the header value for a key."""
    return "Basic " + base64.b64encode(f"{key}:{password}".encode()).decode()


@asynccontextmanager
async def open_receiver(
    url: str,
    encryption: EncryptionKeys,
    *subscriptions: Subscription,
    webhook_limits: WebhookLimits | None = None,
    dispatch_limits: DispatchLimits | None = None,
    event_log: EventLog | None = None,
    around_log: Callable[[StoredEventLog], EventLog] | None = None,
    signed_limits: SignedWebhookLimits | None = None,
    observer: Observer | None = None,
) -> AsyncIterator[Receiver]:
    """Open a service over fresh stores. On SQLite the event log gets a file of its own, as in production.

    Args:
        url: of a migrated store, or of one on SQLite that is not there yet.
        event_log: what is received goes there instead.
        around_log: makes what stands between the doors for deliveries and the log; the dispatcher goes past it.
    """
    clock = Clock()
    async with AsyncExitStack() as stack:
        if url.startswith("sqlite"):
            migrated.lay_out(Path(str(parse_url(url).database)))
        database = Database.open(url)
        stack.push_async_callback(database.close)
        async with database.transaction() as session:
            lookup = await service_secrets.ensure(session, encryption, "api_key_lookup", now=utc_now())
            person = await service_secrets.ensure(session, encryption, PersonHash.SECRET_NAME, now=utc_now())
        api_keys = ApiKeys(database, encryption, lookup, clock, monotonic=lambda: clock().timestamp())
        log = open_event_log(url.replace("control.db", "events.db"))
        stack.push_async_callback(log.close)
        components = {subscription.name: subscription for subscription in subscriptions}
        received: list[str | None] = []
        reception = Reception(
            components,
            api_keys,
            event_log or (around_log(log) if around_log else log),
            PersonHash(person),
            on_received=received.append,
            observer=observer or Observer(),
            clock=clock,
        )
        webhook = Webhook(reception, limits=webhook_limits)
        signed_webhook = SignedWebhook(reception, webhook.concurrency_limit, webhook.watchdog, limits=signed_limits)
        dispatcher = Dispatcher(
            components,
            log,
            database,
            limits=dispatch_limits,
            observer=observer,
            clock=clock,
            jitter=lambda: 1.0,
        )
        app = Starlette(routes=[Mount("/subscriptions", app=Endpoint(webhook, signed_webhook))])
        transport = httpx.ASGITransport(app=app)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://service"))
        async with database.transaction() as session:
            minted = await api_keys.mint(session, account="acme", component=subscriptions[0].name)
        yield Receiver(database, api_keys, log, webhook, dispatcher, client, clock, minted.api_key, received)
