"""Whether the service can take events now: both stores answer, it may write, and there is room where they grow."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from sqlalchemy.exc import SQLAlchemyError

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.recent_backlog import RecentBacklog
from enable_with_segment.db.event_log.records import AnotherProcessWrites, Backlog, EventLogUnavailable
from enable_with_segment.db.revision import is_current
from enable_with_segment.db.store_url import StoreUrl
from enable_with_segment.installs.refusals import read_together
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.subscriptions.receiving.backlog_limit import BacklogLimit

logger = logging.getLogger(__name__)

LEAST_FREE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Readiness:
    """What was checked, and the backlog for information: it is the same for every process, so it stops none.

    ``reasons`` says of a check in words what is in the way, where that is more than that something does not answer.
    ``warnings`` says what an operator has to look at although deliveries can be taken, so it stops no process, either.
    """

    checks: dict[str, bool]
    backlog: Backlog | None
    backlog_limit: BacklogLimit | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether everything is as it has to be."""
        return all(self.checks.values())

    def as_json(self, now: datetime) -> dict[str, object]:
        """Return JSON-ready values; without a backlog when the event log does not answer."""
        found: dict[str, object] = {"ready": self.ready, "checks": self.checks}
        if self.reasons:
            found["reasons"] = dict(self.reasons)
        if self.warnings:
            found["warnings"] = dict(self.warnings)
        if self.backlog is not None:
            oldest = self.backlog.oldest_received_at
            found["backlog"] = {
                "pending": self.backlog.pending,
                "oldest_seconds": 0 if oldest is None else max(0, int((now - oldest).total_seconds())),
                **self._limit_as_json(),
            }
        return found

    def _limit_as_json(self) -> dict[str, object]:
        limit = self.backlog_limit
        return {} if limit is None else {"limit": limit.most, "full": limit.is_reached}


async def examine(
    settings: Settings,
    database: Database,
    event_log: StoredEventLog,
    recent_backlog: RecentBacklog,
    backlog_limit: BacklogLimit | None = None,
    *,
    job_troubles: Mapping[str, str] = MappingProxyType({}),
) -> Readiness:
    """Look at both stores, the disk, and the background jobs.

    Args:
        job_troubles: the jobs of this process that do not run, with what they ended with.
    """
    backlog = await _backlog(event_log, recent_backlog)
    may_write, reasons = backlog is not None, dict[str, str]()
    if may_write:
        may_write, reasons = await _may_write(event_log)
    if job_troubles:
        reasons = {**reasons, "background": "; ".join(job_troubles.values())}
    return Readiness(
        {
            "control_store": await _is_current(database),
            "event_log": may_write,
            "disk": has_room((settings.database_url, settings.effective_event_log_url)),
            "background": not job_troubles,
        },
        backlog,
        backlog_limit,
        reasons,
        await _warnings(database),
    )


def has_room(urls: Iterable[str], *, least_free: int = LEAST_FREE_BYTES) -> bool:
    """Tell whether the folders of embedded stores have room; a server's disk is the server's business."""
    for url in urls:
        path = StoreUrl.parse(url).path
        if path is None:
            continue
        folder = path.resolve().parent
        if folder.exists() and shutil.disk_usage(folder).free < least_free:
            logger.warning("there is no room left in %s", folder)
            return False
    return True


async def _is_current(database: Database) -> bool:
    try:
        return await is_current(database, "control")
    except (SQLAlchemyError, OSError):
        logger.warning("the control store does not answer", exc_info=True)
        return False


async def _warnings(database: Database) -> dict[str, str]:
    try:
        async with database.transaction() as session:
            together = await read_together(session)
    except (SQLAlchemyError, OSError):  # the check of the control store says so
        return {}
    return {} if together is None else {"installs": together.sentence}


async def _backlog(event_log: StoredEventLog, recent_backlog: RecentBacklog) -> Backlog | None:
    try:
        await event_log.check()
        await event_log.count_pending(1)  # now, whatever is known of the backlog
        return await recent_backlog.read()
    except EventLogUnavailable as problem:
        logger.warning("the event log does not answer: %s", problem)
        return None


async def _may_write(event_log: StoredEventLog) -> tuple[bool, dict[str, str]]:
    try:
        await event_log.become_writer()
    except AnotherProcessWrites as problem:  # the dispatcher logs it, now and then
        return False, {"event_log": str(problem)}
    except EventLogUnavailable as problem:
        logger.warning("the event log cannot be written to: %s", problem)
        return False, {}
    return True, {}
