"""The event log that a URL names."""

from __future__ import annotations

from pathlib import Path

from db.database import Database, parse_url
from db.event_log.log import StoredEventLog
from db.event_log.records import ReplayPolicy
from db.event_log.sql import SqlEventLog
from db.event_log.sqlite import SqliteEventLog
from db.event_log.sqlite.segments import SegmentLimits


def open_event_log(
    url: str, *, replays: ReplayPolicy = ReplayPolicy.HOLD, segment_limits: SegmentLimits | None = None
) -> StoredEventLog:
    """Open ``sqlite+aiosqlite:///path`` (the driver's name is ignored: the log brings its own) or PostgreSQL.

    A PostgreSQL database has to be migrated (``db.migrate``, store ``event_log``); SQLite files are made as needed.

    Raises:
        DatabaseUrlInvalid: another scheme, or text that is no URL.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SqliteEventLog(Path(parsed.database or "events.db"), limits=segment_limits, replays=replays)
    return SqlEventLog(Database.open(url), replays=replays)
