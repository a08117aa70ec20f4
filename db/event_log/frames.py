"""The frames that errors went through: where one was raised, and how to let go of them."""

from __future__ import annotations

import traceback
from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


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
