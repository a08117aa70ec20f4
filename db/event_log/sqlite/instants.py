"""Another name for ``db.event_log.instants``, until ``appending`` imports it from there."""

from db.event_log.instants import to_microseconds

__all__ = ["to_microseconds"]
