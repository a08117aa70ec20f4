"""The states of an event as the numbers that stand in its row."""

from __future__ import annotations

from enable_with_segment.db.event_log.states import EventState

PENDING, HANDLED, UNSUPPORTED, SUPPRESSED, REPEATED_DELETE, DEAD_LETTER = range(6)

NUMBERS = {
    EventState.PENDING: PENDING,
    EventState.HANDLED: HANDLED,
    EventState.UNSUPPORTED: UNSUPPORTED,
    EventState.SUPPRESSED: SUPPRESSED,
    EventState.REPEATED_DELETE: REPEATED_DELETE,
    EventState.DEAD_LETTER: DEAD_LETTER,
}
STATES = {number: state for state, number in NUMBERS.items()}
