"""Time limits for many short waits: one timer looks after all of them.

A timer for each wait costs a busy endpoint more than what it guards. Here a wait is noted when it begins and struck
out when it ends; while any is noted, a timer looks a few times within the shortest limit for those that are overdue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_Result = TypeVar("_Result")

_LOOKS_PER_LIMIT = 8


class _Wait:
    """One wait: whose it is, until when (by the loop's clock), and whether it was ended for being late."""

    __slots__ = ("late", "task", "until")

    def __init__(self, task: asyncio.Task[object], until: float) -> None:
        self.task = task
        self.until = until
        self.late = False


class Watchdog:
    """Ends waits that take longer than ``seconds``, at most an eighth late."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waits: dict[_Wait, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def guard(self, work: Awaitable[_Result]) -> _Result:
        """Await ``work``.

        Raises:
            TimeoutError: it took too long, and was cancelled.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine always runs in one
        wait = _Wait(task, loop.time() + self._seconds)
        self._waits[wait] = None
        if self._timer is None:
            self._timer = loop.call_later(self._seconds / _LOOKS_PER_LIMIT, self._look, loop)
        try:
            return await work
        except asyncio.CancelledError:
            # Somebody else may have cancelled the task as well; then it stays cancelled.
            if wait.late and task.uncancel() <= 0:
                raise TimeoutError from None
            raise
        finally:
            del self._waits[wait]

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for wait in self._waits:  # in the order of their ends, because all last equally long
            if wait.until > now:
                break
            if not wait.late:
                wait.late = True
                wait.task.cancel()
        if self._waits:
            self._timer = loop.call_later(self._seconds / _LOOKS_PER_LIMIT, self._look, loop)
