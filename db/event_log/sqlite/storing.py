"""What becomes of a group of events and results when SQLite refuses it: its members are tried in smaller ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

import apsw

from enable_with_segment.db.event_log.bug_log import BugLog, without_frames
from enable_with_segment.db.event_log.records import Appended, EventLogUnavailable, NewEvent, Settlement

logger = logging.getLogger(__name__)

Answers: TypeAlias = tuple[Sequence[Appended | EventLogUnavailable], Sequence[bool | EventLogUnavailable]]
_Write: TypeAlias = Callable[[Sequence[NewEvent], Sequence[Settlement]], Answers]

#: What SQLite says about a row, not about the file: the row's neighbours can be stored all the same.
_REFUSED = (apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError, TypeError, UnicodeError, ValueError)

#: The store fails; anything else is a bug of ours.
_EXPECTED = (apsw.Error, EventLogUnavailable, OSError)


def write_in_parts(
    write: _Write, events: Sequence[NewEvent], settlements: Sequence[Settlement], bugs: BugLog
) -> Answers:
    """Write everything in one transaction; where that is refused, in smaller ones.

    What cannot be stored must not take its neighbours along. A result of that kind is answered ``False``: nothing is
    gained by trying it again.
    """
    try:
        return write(events, settlements)
    except Exception as error:
        count = len(events) + len(settlements)
        is_refused = isinstance(error, _REFUSED)
        if not isinstance(error, _EXPECTED) and (count == 1 or not is_refused):
            bugs.met(error)
        if is_refused and count == 1 and settlements:
            logger.warning(
                "The result of event %d cannot be stored (%s)", settlements[0].event_id, type(error).__name__
            )
            return [], [False]
        if not is_refused or count == 1:
            failure = without_frames(error if isinstance(error, EventLogUnavailable) else unavailable(error))
            return [failure] * len(events), [failure] * len(settlements)
    half, rest = count // 2, max(0, count // 2 - len(events))
    first = write_in_parts(write, events[:half], settlements[:rest], bugs)
    second = write_in_parts(write, events[half:], settlements[rest:], bugs)
    return [*first[0], *second[0]], [*first[1], *second[1]]


def unavailable(error: Exception) -> EventLogUnavailable:
    """Return what callers are told of a failure of the files, with that as its cause."""
    told = EventLogUnavailable(f"the event log's files failed: {type(error).__name__}")
    told.__cause__ = error
    return told
