"""The event log that a URL names. Each engine is imported when it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from enable_with_segment.db.event_log.records import ReplayPolicy
from enable_with_segment.db.store_url import StoreUrl

if TYPE_CHECKING:
    from enable_with_segment.db.database import Database
    from enable_with_segment.db.event_log.log import SegmentLimits, StoredEventLog
    from enable_with_segment.db.event_log.searching import SearchBounds

_SILENCE = "5s"
"""Longer than any transaction pauses between its statements, for it waits for nothing else. What Segment sends again
after it got no answer waits for the locks of the first time."""


def open_event_log(
    url: str,
    *,
    replays: ReplayPolicy = ReplayPolicy.HOLD,
    segment_limits: SegmentLimits | None = None,
    search_bounds: SearchBounds | None = None,
    read_only: bool = False,
) -> StoredEventLog:
    """Open ``sqlite+aiosqlite:///path`` (the driver's name is ignored: the log brings its own) or PostgreSQL.

    A PostgreSQL database has to be migrated (``db.migrate``, store ``event_log``); SQLite files are made as needed.

    Args:
        read_only: for looking at events. Nothing is made or changed, and the database refuses to; on SQLite, every
            method raises ``StoreMissing`` where there is no log.

    Raises:
        DatabaseUrlInvalid: another scheme, or text that is no URL.
    """
    store = StoreUrl.parse(url)
    if store.backend == "sqlite":
        from enable_with_segment.db.event_log.sqlite import SqliteEventLog  # noqa: PLC0415 - without SQLAlchemy

        path = store.path or Path("events.db")
        return SqliteEventLog(path, limits=segment_limits, replays=replays, bounds=search_bounds, read_only=read_only)

    from enable_with_segment.db.database import Database  # noqa: PLC0415
    from enable_with_segment.db.event_log.postgresql.log import SqlEventLog  # noqa: PLC0415

    database = _configured(Database.open(url), read_only=read_only)
    return SqlEventLog(database, replays=replays, limits=segment_limits, bounds=search_bounds)


def _configured(database: Database, *, read_only: bool) -> Database:
    """Let every connection plan each statement once, and the server end what a process left unfinished.

    Every statement finds its rows by an index, one after the other, whatever it is asked for. With many partitions,
    planning takes longer than running; and estimates over all of them, of which few are looked into, would set off a
    compilation, or have all pending events read to settle a few.

    A process that the server cannot hear any more may have left a transaction open, and others wait for its locks.
    """
    from sqlalchemy import event  # noqa: PLC0415

    @event.listens_for(database.engine.sync_engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("SET plan_cache_mode = force_generic_plan")
        for setting in ("jit", "enable_hashjoin", "enable_mergejoin"):
            cursor.execute(f"SET {setting} = off")
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{_SILENCE}'")
        if read_only:
            cursor.execute("SET default_transaction_read_only = on")
        cursor.close()
        connection.commit()

    return database
