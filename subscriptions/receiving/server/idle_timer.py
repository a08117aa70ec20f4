"""One timer for the many short rests of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class IdleTimer:
    """Calls back after a rest of some seconds.

    To set a timer for each rest and cancel it after a millisecond costs more than much of what a delivery needs. This
    one stays set: when it is due it looks how long the present rest has lasted, and waits for what is left of it.

    Args:
        seconds: how long a rest may last.
    """

    __slots__ = ("_loop", "_seconds", "_since", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def rest(self, end: Callable[[], None]) -> None:
        """Begin a rest; ``end`` is the same each time, and called when one has lasted too long."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._since + self._seconds, self._look, end)

    def wake(self) -> None:
        """End the rest."""
        self._since = None

    def stop(self) -> None:
        """End it for good, and let go of whom to call."""
        self._since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, end: Callable[[], None]) -> None:
        self._timer = None
        if self._since is None:
            return
        due = self._since + self._seconds
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look, end)
        else:
            self._since = None
            end()
