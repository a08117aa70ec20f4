"""What the stores say, in the same words from every process: backlog, outbox, installs, tokens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from datetime import datetime
from typing import TypeVar

from sqlalchemy import func
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col, select

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control.tables import Install, InstallToken, OutboxEntry
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.recent_backlog import RecentBacklog
from enable_with_segment.db.event_log.records import Backlog, EventLogUnavailable
from enable_with_segment.installs.refusals import read_together
from enable_with_segment.oauth_app.observability.exposition import Family, Sample
from enable_with_segment.oauth_app.observability.metrics import PREFIX
from enable_with_segment.subscriptions.receiving.backlog_limit import BacklogLimit

logger = logging.getLogger(__name__)

_Figures = TypeVar("_Figures")

_FRESH_SECONDS = 5.0
_PATIENCE_SECONDS = 5.0
"""Prometheus waits for ten seconds, where nobody tells it otherwise."""


class StoreMetrics:
    """Reads both stores at most every five seconds, however often somebody scrapes.

    How much waits is told as everybody in this process knows it.
    """

    def __init__(
        self,
        control: Database,
        event_log: StoredEventLog,
        recent_backlog: RecentBacklog,
        backlog_limit: BacklogLimit | None = None,
        *,
        clock: Clock = utc_now,
    ) -> None:
        self._control = control
        self._event_log = event_log
        self._recent_backlog = recent_backlog
        self._backlog_limit = backlog_limit
        self._clock = clock
        self._read_at: float | None = None
        self._bytes: int | None = None
        self._of_control: list[Family] = []
        self._reading = asyncio.Lock()

    async def families(self) -> list[Family]:
        """Return what the stores say; of one that is away, only that it is. The most important figure comes first."""
        async with self._reading:
            now = self._recent_backlog.clock()
            backlog = await self._of_log(self._recent_backlog.read(patience_seconds=_PATIENCE_SECONDS))
            if self._read_at is None or now - self._read_at >= _FRESH_SECONDS:
                self._bytes = None if backlog is None else await self._of_log(self._event_log.size())
                self._of_control = await self._read_control_store()
                self._read_at = now
            size, of_control = self._bytes, self._of_control
        of_log = [] if backlog is None or size is None else _of_event_log(backlog, size, self._clock())
        stores = {"event_log": bool(of_log) and await self._may_write(), "control": bool(of_control)}
        up = [Sample(int(is_up), {"store": store}) for store, is_up in stores.items()]
        return [
            *of_log,
            *of_control,
            _gauge("store_up", "Whether a store answers, and this process may write to it.", *up),
            *self._of_backlog_limit(),
        ]

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

    async def _of_log(self, asked: Awaitable[_Figures]) -> _Figures | None:
        try:
            return await asked
        except EventLogUnavailable as problem:
            logger.warning("The event log cannot be measured: %s", problem)
            return None

    async def _may_write(self) -> bool:
        try:
            await self._event_log.become_writer()
        except EventLogUnavailable:  # the dispatcher logs it, now and then
            return False
        return True

    async def _read_control_store(self) -> list[Family]:
        try:
            return await self._families_of_control_store(self._clock())
        except (SQLAlchemyError, OSError) as problem:
            logger.warning("The control store cannot be measured (%s)", type(problem).__name__)
            return []

    async def _families_of_control_store(self, now: datetime) -> list[Family]:
        waiting = col(OutboxEntry.finished_at).is_(None)
        async with self._control.transaction() as session:
            due = select(func.count(), func.min(col(OutboxEntry.available_at))).where(
                waiting, col(OutboxEntry.available_at) <= now
            )
            count, oldest = (await session.exec(due)).one()
            installs = (await session.exec(select(Install.status, func.count()).group_by(col(Install.status)))).all()
            health = select(InstallToken.health, func.count(), func.sum(InstallToken.failures))
            tokens = (await session.exec(health.group_by(col(InstallToken.health)))).all()
            failing = select(OutboxEntry.kind, func.count()).where(waiting, col(OutboxEntry.last_error).is_not(None))
            retrying = (await session.exec(failing.group_by(col(OutboxEntry.kind)))).all()
            together = await read_together(session)
        return [
            _gauge("outbox_pending", "Work for Segment that is due.", Sample(count)),
            _gauge("outbox_oldest_seconds", "How long the oldest of it has been due.", Sample(_age(oldest, now))),
            _gauge(
                "outbox_retrying",
                "Work that failed and is tried again, by kind.",
                *(Sample(number, {"kind": kind}) for kind, number in sorted(retrying)),
            ),
            _gauge(
                "installs_refused_together",
                "Installs that turned bad together: a fault of the App's settings or of Segment.",
                Sample(0 if together is None else together.refused),
            ),
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


def _of_event_log(backlog: Backlog, size: int, now: datetime) -> list[Family]:
    return [
        _gauge(
            "oldest_undelivered_seconds",
            "Age of the oldest event that is not handled yet; 0 when there is none.",
            Sample(_age(backlog.oldest_received_at, now)),
        ),
        _gauge("events_pending", "Events waiting for their first or next attempt.", Sample(backlog.pending)),
        _gauge("dead_letters", "Events that were given up.", Sample(backlog.dead_letters)),
        _gauge("event_log_bytes", "What the event log takes on the disk.", Sample(size)),
    ]


def _gauge(name: str, text: str, *samples: Sample) -> Family:
    return Family(f"{PREFIX}_{name}", "gauge", text, samples)


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max((now - since).total_seconds(), 0.0)
