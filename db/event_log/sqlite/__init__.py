"""The event log in SQLite files: one small catalogue, and segments that events are appended to."""

from enable_with_segment.db.event_log.sqlite.log import SqliteEventLog

__all__ = ["SqliteEventLog"]
