"""Putting the service together: the one place where every part is built and handed to the others."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from typing import Literal, TypeAlias

from starlette.types import ASGIApp

from enable_with_segment.components.subscription import Subscription
from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control.tables import OutboxEntry
from enable_with_segment.db.event_log.recent_backlog import RecentBacklog
from enable_with_segment.installs.announcer import InstallAnnouncer
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.outbox_worker import OutboxWorker
from enable_with_segment.installs.provisioning.plan import Component
from enable_with_segment.installs.provisioning.provisioner import Provisioner
from enable_with_segment.installs.reconciliation import Reconciler
from enable_with_segment.installs.reconciliation_sweep import ReconciliationSweep
from enable_with_segment.installs.removal import RemovedInstalls
from enable_with_segment.installs.tokens import InstallTokens
from enable_with_segment.oauth_app.flow.cookies import FlowCookies
from enable_with_segment.oauth_app.flow.install_flow import InstallFlow
from enable_with_segment.oauth_app.observability.event_loop_monitor import EventLoopMonitor
from enable_with_segment.oauth_app.observability.metrics import Metrics
from enable_with_segment.oauth_app.observability.store_metrics import StoreMetrics
from enable_with_segment.oauth_app.observability.tracing import Traces
from enable_with_segment.oauth_app.operators import Operators
from enable_with_segment.oauth_app.operators.api_tokens import ApiTokens
from enable_with_segment.oauth_app.operators.identity_provider import identity_provider_of
from enable_with_segment.oauth_app.operators.logins import Logins
from enable_with_segment.oauth_app.operators.roles import AccessLists
from enable_with_segment.oauth_app.operators.sessions import Sessions
from enable_with_segment.oauth_app.runtime.background import BackgroundJob, BackgroundJobs
from enable_with_segment.oauth_app.runtime.component import (
    component_name,
    load_component,
    load_partner_session,
)
from enable_with_segment.oauth_app.runtime.emergency_stop import EmergencyStopSwitch
from enable_with_segment.oauth_app.runtime.emergency_stop_gate import EmergencyStopGate
from enable_with_segment.oauth_app.runtime.factories import api_keys_of, connect_links_of, sign_in_links_of
from enable_with_segment.oauth_app.runtime.heartbeat import Heartbeat
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import Stores, open_stores
from enable_with_segment.oauth_app.web.pages import Pages
from enable_with_segment.oauth_app.web.rate_limits import RateLimits
from enable_with_segment.oauth_app.web.services import Services
from enable_with_segment.oauth_app.web.status_links import StatusLinks
from enable_with_segment.segment_api.config_api import ConfigApi
from enable_with_segment.segment_api.identity import IdentityClient
from enable_with_segment.segment_api.rate_limiter import RateLimiter
from enable_with_segment.segment_api.secret import Secret
from enable_with_segment.subscriptions.archive.retention import GIB, Retention
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from enable_with_segment.subscriptions.dispatch.limits import DispatchLimits
from enable_with_segment.subscriptions.observer import Observer, Observers
from enable_with_segment.subscriptions.receiving import store_trouble
from enable_with_segment.subscriptions.receiving.backlog_limit import BacklogLimit
from enable_with_segment.subscriptions.receiving.endpoint import Endpoint
from enable_with_segment.subscriptions.receiving.fast_path import FastPath
from enable_with_segment.subscriptions.receiving.install_activity import InstallActivity
from enable_with_segment.subscriptions.receiving.load_shedding import LoadShedding
from enable_with_segment.subscriptions.receiving.person_hash import PersonHash
from enable_with_segment.subscriptions.receiving.reception import Reception
from enable_with_segment.subscriptions.receiving.signed_webhook import SignedWebhook
from enable_with_segment.subscriptions.receiving.webhook import Webhook

Role: TypeAlias = Literal["all", "web", "worker"]


@dataclass(frozen=True, slots=True)
class SegmentAccess:
    """How we reach Segment on behalf of installs; only there when a Segment App is configured."""

    identity: IdentityClient
    tokens: InstallTokens
    provisioner: Provisioner
    reconciler: Reconciler
    removed: RemovedInstalls

    def outbox_handlers(self) -> dict[str, Callable[[OutboxEntry], Awaitable[None]]]:
        """Return what the outbox does by calling Segment."""
        parts = (self.provisioner, self.reconciler, self.removed)
        return {kind: handler for part in parts for kind, handler in part.outbox_handlers().items()}


@dataclass(frozen=True, slots=True)
class RunningService:
    """The service while it runs: what the routes use, the webhook, and what a server may do for the webhook."""

    services: Services
    webhook: ASGIApp
    load_shedding: LoadShedding | None = None
    fast_path: FastPath | None = None


@asynccontextmanager
async def operators_of(settings: Settings, stores: Stores) -> AsyncIterator[Operators]:
    """Build what operators sign in with while the block lasts."""
    links = sign_in_links_of(settings, stores.control)
    access = AccessLists(settings.operators, settings.viewers, settings.oidc_groups_claim, links=links is not None)
    sessions = Sessions(stores.control, access, secure=settings.secure_cookies)
    provider = identity_provider_of(settings)
    if provider is None:
        yield Operators(sessions, None, links)
        return
    try:
        logins = Logins(stores.control, provider, access, secret=stores.secrets.operator_logins)
        yield Operators(sessions, logins, links)
    finally:
        await provider.aclose()


@asynccontextmanager
async def panic_switch_of(stores: Stores) -> AsyncIterator[EmergencyStopSwitch]:
    """Build the emergency stop while the block lasts."""
    switch = EmergencyStopSwitch(stores.control)
    try:
        yield switch
    finally:
        await switch.close()


@asynccontextmanager
async def segment_of(
    settings: Settings, stores: Stores, *, api_keys: ApiKeys | None = None
) -> AsyncIterator[SegmentAccess | None]:
    """Build the clients of Segment while the block lasts; ``None`` without a Segment App.

    While the emergency stop is engaged they send nothing.

    Args:
        api_keys: those that deliveries are checked with in this process, so that what is revoked here is refused
            there at once.
    """
    if settings.segment_client_id is None or settings.segment_client_secret is None:
        yield None
        return
    limiter = RateLimiter()
    panic = EmergencyStopSwitch(stores.control)
    identity = IdentityClient(
        identity_url=settings.segment_identity_url,
        config_api_url=settings.segment_config_api_url,
        client_id=settings.segment_client_id,
        client_secret=Secret(settings.segment_client_secret.get_secret_value()),
        redirect_uri=settings.redirect_uri,
        scope=settings.scope,
        limiter=limiter,
        before_request=panic.refuse_use_of_segment,
    )
    config_api = ConfigApi(settings.segment_config_api_url, limiter=limiter, before_request=panic.refuse_use_of_segment)
    grace = timedelta(hours=settings.removal_grace_hours)
    tokens = InstallTokens(stores.control, stores.encryption, identity, removal_grace=grace)
    subscription = load_component(settings)
    component = Component.of(subscription, settings.segment_destination or subscription.name)
    api_keys = api_keys or api_keys_of(settings, stores)
    provisioner = Provisioner(
        stores.control,
        api_keys,
        tokens,
        config_api,
        {component.name: component},
        overwrite_policy=settings.overwrite_destination,
    )
    reconciler = Reconciler(stores.control, api_keys, tokens, config_api, policy=settings.reconcile)
    try:
        removed = RemovedInstalls(stores.control, api_keys, tokens, grace=grace)
        yield SegmentAccess(identity, tokens, provisioner, reconciler, removed)
    finally:
        await config_api.aclose()
        await identity.aclose()
        await panic.close()


def announcements_of(
    settings: Settings, stores: Stores, components: Mapping[str, Subscription], *, owner: str
) -> OutboxWorker:
    """Build the queue of the partner's ``on_install`` functions, apart from what is done at Segment."""
    announcer = InstallAnnouncer(stores.control, components, seconds=settings.handler_seconds)
    lease = timedelta(minutes=3) + 2 * timedelta(seconds=settings.handler_seconds)
    return OutboxWorker(stores.control, announcer.outbox_handlers(), owner=owner, lease=lease)


@asynccontextmanager
async def run_service(settings: Settings, role: Role = "all") -> AsyncIterator[RunningService]:
    """Build everything and run the background work of a role while the block lasts.

    Raises:
        SettingsInvalid: a setting is missing or wrong, or the encryption keys don't open the store.
        SchemaOutdated: a PostgreSQL store has to be migrated first.
        SubscriptionError: the handlers cannot be loaded.
    """
    subscription = load_component(settings)
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(settings))
        owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        presence = Heartbeat(stores.control, owner, role=role, key_ids=stores.encryption.key_ids)
        await presence.announce()
        stack.push_async_callback(presence.leave)
        api_keys = api_keys_of(settings, stores)
        stack.push_async_callback(api_keys.close)
        segment = await stack.enter_async_context(segment_of(settings, stores, api_keys=api_keys))
        operators = await stack.enter_async_context(operators_of(settings, stores))
        panic = await stack.enter_async_context(panic_switch_of(stores))
        components = {subscription.name: subscription}
        activity = InstallActivity(stores.control)
        metrics = Metrics()
        observer: Observer = Observers(metrics, Traces()) if settings.traces else metrics
        limits = DispatchLimits(handler_seconds=settings.handler_seconds, calls_per_handler=settings.calls_per_handler)
        dispatcher = Dispatcher(components, stores.event_log, stores.control, limits=limits, observer=observer)
        announcements = announcements_of(settings, stores, components, owner=owner)
        outbox = OutboxWorker(
            stores.control,
            {} if segment is None else segment.outbox_handlers(),
            owner=owner,
            given_up=None if segment is None else segment.provisioner.give_up,
            worked=announcements.wake,
        )
        reception = Reception(
            components,
            api_keys,
            stores.event_log,
            PersonHash(stores.secrets.person_hash),
            on_received=_on_received(activity, dispatcher),
            observer=observer,
        )
        stack.callback(store_trouble.TROUBLES.ends)
        webhook = Webhook(reception)
        endpoint = Endpoint(webhook, SignedWebhook(reception, webhook.concurrency_limit, webhook.watchdog))
        for sink in subscription.sinks:
            stack.push_async_callback(sink.aclose)
        jobs = [BackgroundJob("install activity", activity.run), BackgroundJob("presence", presence.run)]
        jobs.append(BackgroundJob("loop watch", EventLoopMonitor().run))
        recent_backlog = RecentBacklog(stores.event_log)
        stack.push_async_callback(recent_backlog.close)
        backlog_limit: BacklogLimit | None = None
        if role != "worker" and settings.most_pending_events:
            backlog_limit = BacklogLimit(recent_backlog, webhook.concurrency_limit, most=settings.most_pending_events)
            jobs.append(BackgroundJob("backlog limit", backlog_limit.run))
        if role != "web":
            jobs.append(BackgroundJob("dispatcher", dispatcher.run, dispatcher.stop))
            jobs.append(BackgroundJob("retention", _retention(settings, stores).run))
            if segment is not None:
                jobs.append(BackgroundJob("outbox", outbox.run, outbox.stop))
                jobs.append(BackgroundJob("announcements", announcements.run, announcements.stop))
                if settings.reconcile_hours:
                    interval = timedelta(hours=settings.reconcile_hours)
                    sweep = ReconciliationSweep(stores.control, interval=interval, wake=outbox.wake)
                    jobs.append(BackgroundJob("reconciliation", sweep.run))
        background = BackgroundJobs(jobs)
        services = _services(
            settings,
            stores,
            segment,
            outbox=outbox,
            operators=operators,
            panic=panic,
            api_keys=api_keys,
            metrics=metrics,
            backlog_limit=backlog_limit,
            recent_backlog=recent_backlog,
            background=background,
        )
        await stack.enter_async_context(background.running())
        fast_path = webhook.fast_path(is_open=lambda: panic.known() is False)
        yield RunningService(
            services, EmergencyStopGate(endpoint, panic, answered=reception.answered), webhook.load_shedding, fast_path
        )


def _on_received(activity: InstallActivity, dispatcher: Dispatcher) -> Callable[[str | None], None]:
    troubles = store_trouble.TROUBLES

    def received(install_id: str | None) -> None:
        troubles.taken()
        if install_id is not None:
            activity.note(install_id)
        dispatcher.wake()

    return received


def _retention(settings: Settings, stores: Stores) -> Retention:
    most = None if settings.retention_gib is None else int(settings.retention_gib * GIB)
    return Retention(stores.event_log, days=settings.retention_days, most_bytes=most)


def _services(
    settings: Settings,
    stores: Stores,
    segment: SegmentAccess | None,
    *,
    outbox: OutboxWorker,
    operators: Operators,
    panic: EmergencyStopSwitch,
    api_keys: ApiKeys,
    metrics: Metrics,
    backlog_limit: BacklogLimit | None,
    recent_backlog: RecentBacklog,
    background: BackgroundJobs,
) -> Services:
    partner_session = load_partner_session(settings)
    may_start = partner_session is not None or settings.partner_login_url is not None
    flow = None
    if segment is not None:
        flow = InstallFlow(
            stores.control,
            stores.encryption,
            segment.identity,
            api_keys,
            FlowCookies(stores.secrets.flow_cookies),
            component=component_name(settings),
            scope=settings.scope,
            pkce=settings.segment_pkce,
        )
    return Services(
        settings=settings,
        component=component_name(settings),
        database=stores.control,
        event_log=stores.event_log,
        metrics=metrics,
        store_metrics=StoreMetrics(stores.control, stores.event_log, recent_backlog, backlog_limit),
        recent_backlog=recent_backlog,
        pages=Pages(
            partner_name=settings.partner_name,
            support_url=settings.support_url,
            base_path=settings.base_path,
            start_url=settings.path_to("/auth/segment") if may_start else None,
        ),
        api_keys=api_keys,
        api_tokens=ApiTokens(stores.control),
        operators=operators,
        panic=panic,
        rate_limits=RateLimits([ip_network(network) for network in settings.trusted_proxies]),
        provisioner=None if segment is None else segment.provisioner,
        connect_links=connect_links_of(settings, stores.control),
        status_links=StatusLinks(stores.secrets.status_links),
        flow=flow,
        partner_session=partner_session,
        wake_outbox=outbox.wake,
        clock=utc_now,
        backlog_limit=backlog_limit,
        background=background,
    )


async def check_service(settings: Settings) -> None:
    """Find out before a server starts whether the service could run.

    Raises:
        SettingsInvalid, SchemaOutdated, SubscriptionError: as :func:`run_service`.
    """
    load_component(settings)
    load_partner_session(settings)
    if settings.traces:
        Traces()
    async with open_stores(settings) as stores, segment_of(settings, stores):
        pass
