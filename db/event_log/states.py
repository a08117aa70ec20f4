"""The states of an event, and of one handler's work on it, in the words that every engine uses."""

from __future__ import annotations

from enum import StrEnum


class EventState(StrEnum):
    """What became of an event."""

    PENDING = "pending"
    """Waiting for its first or next attempt."""
    HANDLED = "handled"
    """Every handler that wanted it is done with it, and at least one did something."""
    UNSUPPORTED = "unsupported"
    """No handler wanted it, or all said that they do not support it."""
    SUPPRESSED = "suppressed"
    """Not handed over, because the person was deleted at or after the event's time (contract 7.1)."""
    REPEATED_DELETE = "repeated_delete"
    """A further delete message for the same deletion; one job does the work."""
    DEAD_LETTER = "dead_letter"
    """Given up; the reason is in ``last_error``."""


class HandlerState(StrEnum):
    """What one handler made of one event."""

    DONE = "done"
    UNSUPPORTED = "unsupported"
    RETRY = "retry"
    UNKNOWN = "unknown"
    """The attempt ended without a result: whoever made it died, or could not store what came of it."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not called, because the event was handed out again for another handler alone; a retry of the event calls it."""
