"""What the routes work with: everything is built once by ``oauth_app.runtime.wiring`` and handed over here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from starlette.requests import Request

from enable_with_segment.db.clock import Clock
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.recent_backlog import RecentBacklog
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.connect_links import ConnectLinks
from enable_with_segment.installs.provisioning.provisioner import Provisioner
from enable_with_segment.oauth_app.flow.install_flow import InstallFlow
from enable_with_segment.oauth_app.observability.metrics import Metrics
from enable_with_segment.oauth_app.observability.store_metrics import StoreMetrics
from enable_with_segment.oauth_app.operators import Operators
from enable_with_segment.oauth_app.operators.api_tokens import ApiTokens
from enable_with_segment.oauth_app.runtime.background import BackgroundJobs
from enable_with_segment.oauth_app.runtime.emergency_stop import EmergencyStopSwitch
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.web.pages import Pages
from enable_with_segment.oauth_app.web.rate_limits import RateLimits
from enable_with_segment.oauth_app.web.status_links import StatusLinks
from enable_with_segment.subscriptions.receiving.backlog_limit import BacklogLimit

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
    panic: EmergencyStopSwitch
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
    background: BackgroundJobs = field(default_factory=lambda: BackgroundJobs([]))


def services_of(request: Request) -> Services:
    """Return the services of the application a request came to."""
    services: Services = request.app.state.services
    return services
