"""What the stores say, in the same words from every process: backlog, outbox, installs, tokens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import func
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col, select

from db.clock import Clock, utc_now
from db.control.tables import Install, InstallToken, OutboxEntry
from db.database import Database
from db.event_log.log import EventArchive
from db.event_log.records import EventLogUnavailable
from oauth_app.exposition import Family, Sample
from oauth_app.metrics import PREFIX
from subscriptions.receiving.backlog_limit import BacklogLimit

logger = logging.getLogger(__name__)

_FRESH_SECONDS = 5.0


class StoreMetrics:
    """Reads both stores at most every five seconds, however often somebody scrapes."""

    def __init__(
        self,
        control: Database,
        event_log: EventArchive,
        backlog_limit: BacklogLimit | None = None,
        *,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._event_log = event_log
        self._backlog_limit = backlog_limit
        self._clock = clock
        self._monotonic = monotonic
        self._read_at: float | None = None
        self._families: list[Family] = []
        self._reading = asyncio.Lock()

    async def families(self) -> list[Family]:
        """Return what the stores say; of one that is away, only that it is. The most important figure comes first."""
        async with self._reading:
            now = self._monotonic()
            if self._read_at is None or now - self._read_at >= _FRESH_SECONDS:
                self._families = await self._read()
                self._read_at = now
            return self._families

    async def _read(self) -> list[Family]:
        now = self._clock()
        found: list[Family] = []
        reachable = {"event_log": True, "control": True}
        try:
            found += await self._of_event_log(now)
        except EventLogUnavailable as problem:
            logger.warning("The event log cannot be measured: %s", problem)
            reachable["event_log"] = False
        try:
            found += await self._of_control_store(now)
        except (SQLAlchemyError, OSError) as problem:
            logger.warning("The control store cannot be measured (%s)", type(problem).__name__)
            reachable["control"] = False
        up = [Sample(int(answers), {"store": store}) for store, answers in reachable.items()]
        return [*found, _gauge("store_up", "Whether a store answers.", *up), *self._of_backlog_limit()]

    def _of_backlog_limit(self) -> list[Family]:
        limit = self._backlog_limit
        if limit is None:
            return []
        return [
            _gauge("events_pending_limit", "How many events may wait.", Sample(limit.most)),
            _gauge(
                "backlog_full",
                "Whether this process refuses deliveries because so many events wait.",
                Sample(int(limit.is_reached)),
            ),
        ]

    async def _of_event_log(self, now: datetime) -> list[Family]:
        backlog = await self._event_log.backlog()
        return [
            _gauge(
                "oldest_undelivered_seconds",
                "Age of the oldest event that is not handled yet; 0 when there is none.",
                Sample(_age(backlog.oldest_received_at, now)),
            ),
            _gauge("events_pending", "Events waiting for their first or next attempt.", Sample(backlog.pending)),
            _gauge("dead_letters", "Events that were given up.", Sample(backlog.dead_letters)),
            _gauge("event_log_bytes", "What the event log takes on the disk.", Sample(await self._event_log.size())),
        ]

    async def _of_control_store(self, now: datetime) -> list[Family]:
        waiting = col(OutboxEntry.finished_at).is_(None)
        async with self._control.transaction() as session:
            due = select(func.count(), func.min(col(OutboxEntry.available_at))).where(
                waiting, col(OutboxEntry.available_at) <= now
            )
            count, oldest = (await session.exec(due)).one()
            installs = (await session.exec(select(Install.status, func.count()).group_by(col(Install.status)))).all()
            health = select(InstallToken.health, func.count(), func.sum(InstallToken.failures))
            tokens = (await session.exec(health.group_by(col(InstallToken.health)))).all()
        return [
            _gauge("outbox_pending", "Work for Segment that is due.", Sample(count)),
            _gauge("outbox_oldest_seconds", "How long the oldest of it has been due.", Sample(_age(oldest, now))),
            _gauge(
                "installs",
                "Installs by status.",
                *(Sample(number, {"status": str(status)}) for status, number in sorted(installs)),
            ),
            _gauge(
                "install_tokens",
                "Install tokens by health.",
                *(Sample(number, {"health": health}) for health, number, _ in sorted(tokens)),
            ),
            _gauge(
                "install_token_refresh_failures",
                "Refreshes that failed since the last one that succeeded, of all installs.",
                Sample(sum(int(failures or 0) for _, _, failures in tokens)),
            ),
        ]


def _gauge(name: str, text: str, *samples: Sample) -> Family:
    return Family(f"{PREFIX}_{name}", "gauge", text, samples)


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max((now - since).total_seconds(), 0.0)
