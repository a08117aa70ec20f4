"""Bugs of ours while events are stored: logged with their place, now and then, and with nothing of an event.

The text of an exception may quote what was to be stored. Its type, and the lines of code that it came through, do not.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

logger = logging.getLogger(__name__)

_TOLD_EVERY_SECONDS = 600.0
_MOST_KINDS = 20

_Error = TypeVar("_Error", bound=BaseException)
_Kind: TypeAlias = tuple[str, str]


class Unquoted(Exception):
    """Stands in for an exception, with its type for a text."""


@dataclass(slots=True)
class _Told:
    at: float
    times_since: int = 0


class BugLog:
    """Logs a bug when it is met for the first time, and then every ten minutes while it comes again.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[_Kind, _Told] = {}

    def met(self, error: Exception) -> None:
        """Note a bug: an exception that was caught where it should not have come."""
        now, kind = self._clock(), (type(error).__name__, raised_at(error))
        told = self._told.get(kind)
        if told is not None and now - told.at < _TOLD_EVERY_SECONDS:
            told.times_since += 1
            return
        again = "" if told is None else f", {told.times_since + 1} times since it was last told"
        if told is None and len(self._told) >= _MOST_KINDS:
            del self._told[min(self._told, key=lambda kind: self._told[kind].at)]
        self._told[kind] = _Told(now)
        logger.error("A bug in the event log (%s)%s", kind[0], again, exc_info=unquoted(error))


def unquoted(error: BaseException) -> Unquoted:
    """Return what an exception and those before it may be logged as: their types and frames, without their texts."""
    found = Unquoted(type(error).__name__).with_traceback(error.__traceback__)
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    found.__cause__ = None if before is None else unquoted(before)
    return found


def raised_at(error: BaseException) -> str:
    """Return the file and the line where an error was raised; empty when nobody raised it."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    return f"{frames[-1][0]}:{frames[-1][1]}" if frames else ""


def without_frames(error: _Error) -> _Error:
    """Take the tracebacks off an error and off what caused it; returns the same error.

    Frames that hold the error they raised, or the outcomes of a group, are let go by the collector alone. Until it
    comes by, they and everybody whom the error was raised for would stay in memory: requests, and the keys in them.
    """
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
