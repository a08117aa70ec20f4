"""Errors that are handed to those who wait, without the frames that they went through."""

from __future__ import annotations

from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


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
