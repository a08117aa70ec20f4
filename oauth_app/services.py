"""What the routes work with: everything is built once by ``oauth_app.wiring`` and handed over here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from starlette.requests import Request

from db.clock import Clock
from db.database import Database
from db.event_log.log import StoredEventLog
from db.event_log.recent_backlog import RecentBacklog
from oauth_app.api.tokens import ApiTokens
from oauth_app.connect_links import ConnectLinks
from oauth_app.install_flow import InstallFlow
from oauth_app.metrics import Metrics
from oauth_app.operators import Operators
from oauth_app.pages import Pages
from oauth_app.panic import PanicSwitch
from oauth_app.rate_limits import RateLimits
from oauth_app.settings import Settings
from oauth_app.signed_links import StatusLinks
from oauth_app.store_metrics import StoreMetrics
from subscriptions.api_keys import ApiKeys
from subscriptions.provisioning.provisioner import Provisioner
from subscriptions.receiving.backlog_limit import BacklogLimit

PartnerSession: TypeAlias = Callable[[Request], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Services:
    """The services behind the routes. ``flow`` and ``provisioner`` are missing when no Segment App is configured."""

    settings: Settings
    component: str
    database: Database
    event_log: StoredEventLog
    metrics: Metrics
    store_metrics: StoreMetrics
    recent_backlog: RecentBacklog
    pages: Pages
    api_keys: ApiKeys
    api_tokens: ApiTokens
    operators: Operators
    panic: PanicSwitch
    rate_limits: RateLimits
    provisioner: Provisioner | None
    connect_links: ConnectLinks
    status_links: StatusLinks
    flow: InstallFlow | None
    partner_session: PartnerSession | None
    wake_outbox: Callable[[], None]
    clock: Clock
    backlog_limit: BacklogLimit | None = None
    """Missing where no deliveries are taken, or as many as fit on the disk."""


def services_of(request: Request) -> Services:
    """Return the services of the application a request came to."""
    services: Services = request.app.state.services
    return services
