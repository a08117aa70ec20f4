"""The states of an event as the numbers that stand in its row."""

from __future__ import annotations

from enable_with_segment.db.event_log.sqlite.segment import (
    DEAD_LETTER,
    HANDLED,
    PENDING,
    REPEATED_DELETE,
    SUPPRESSED,
    UNSUPPORTED,
)
from enable_with_segment.db.event_log.states import EventState

NUMBERS = {
    EventState.PENDING: PENDING,
    EventState.HANDLED: HANDLED,
    EventState.UNSUPPORTED: UNSUPPORTED,
    EventState.SUPPRESSED: SUPPRESSED,
    EventState.REPEATED_DELETE: REPEATED_DELETE,
    EventState.DEAD_LETTER: DEAD_LETTER,
}
STATES = {number: state for state, number in NUMBERS.items()}
