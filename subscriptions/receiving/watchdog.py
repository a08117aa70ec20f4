"""Time limits for many short waits: one timer looks after all of them.

A timer for each wait costs a busy endpoint more than what it guards. Here a wait is noted when it begins and struck
out when it ends; while any is noted, a timer looks a few times a second for those that are overdue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

LOOK_EVERY_SECONDS = 0.25
_LOOKS_PER_LIMIT = 8


class Overdue(Protocol):
    """What has a time limit."""

    def look(self, now: float) -> None:
        """End it, if it is overdue at this instant of the loop's clock."""


class Wait:
    """A block of code with a time limit; ``TimeoutError`` comes out of it when that is over.

    Attributes:
        doing: what is being waited for, in words.
    """

    __slots__ = ("_late", "_task", "_until", "_watchdog", "doing")

    def __init__(self, watchdog: Watchdog, doing: str, until: float) -> None:
        self.doing = doing
        self._watchdog = watchdog
        self._until = until
        self._late = False
        self._task: asyncio.Task[object] | None = None

    def go_on(self, doing: str, seconds: float) -> None:
        """Begin another part of the same work, with a time limit of its own."""
        self.doing = doing
        self._until = self._watchdog.loop.time() + seconds

    def left(self) -> float:
        """Return how many seconds are left of the limit."""
        return self._until - self._watchdog.loop.time()

    def __enter__(self) -> Wait:
        self._task = asyncio.current_task(self._watchdog.loop)
        self._watchdog.waits[self] = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        del self._watchdog.waits[self]
        # Somebody else may have cancelled the task as well; then it stays cancelled.
        if kind is asyncio.CancelledError and self._late and self._task is not None and self._task.uncancel() <= 0:
            raise TimeoutError from None

    def look(self, now: float) -> None:
        """Cancel the work if it is overdue."""
        if now >= self._until and not self._late and self._task is not None:
            self._late = True
            self._task.cancel()


class Watchdog:
    """Ends waits that take too long, at most a quarter of a second or an eighth of the limit late.

    Args:
        seconds: the shortest limit there will be.
        on_look: told at every look how many seconds late it is: so long was the event loop busy with other things.
    """

    def __init__(self, seconds: float, *, on_look: Callable[[float], None] | None = None) -> None:
        self._every = min(LOOK_EVERY_SECONDS, seconds / _LOOKS_PER_LIMIT)
        self._on_look = on_look
        self._due = 0.0
        self.waits: dict[Overdue, None] = {}
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]  # known once there is work
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, doing: str, seconds: float, *, since: float | None = None) -> Wait:
        """Return a context manager for a block that may take ``seconds``.

        Args:
            since: when they began, by the loop's clock; now where nothing is said.

        Raises, at its end:
            TimeoutError: it took too long, and was cancelled.
        """
        self.wake()
        return Wait(self, doing, (self.loop.time() if since is None else since) + seconds)

    def wake(self) -> None:
        """Begin to look; ends by itself once nothing is waited for. Whatever is in ``waits`` is looked after."""
        if self._timer is None:
            self.loop = asyncio.get_running_loop()
            self._look_later()

    def _look(self) -> None:
        self._timer = None
        now = self.loop.time()
        if self._on_look is not None:
            self._on_look(now - self._due)
        for wait in tuple(self.waits):  # who is overdue may end, and strike itself out, at once
            wait.look(now)
        if self.waits:
            self._look_later()

    def _look_later(self) -> None:
        self._due = self.loop.time() + self._every
        self._timer = self.loop.call_at(self._due, self._look)
