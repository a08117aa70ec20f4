"""An event log of a process that dies."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any, TypeVar, cast

from enable_with_segment.db.event_log.group_commit import Waiter
from enable_with_segment.db.event_log.log import EventLog
from enable_with_segment.db.event_log.records import Appended, EventLogUnavailable, NewEvent
from tests.subscriptions.stepping_waiter import SteppingWaiter

_Result = TypeVar("_Result")


class ProcessDied(Exception):
    """The process is gone: nothing that it does from here on has an effect."""


class Life:
    """A process's time: it dies at the n-th step it takes, or never for ``None``."""

    def __init__(self, steps: int | None = None) -> None:
        self._left = steps
        self.died = asyncio.Event()

    def step(self) -> None:
        """Come past a moment at which the process may die.

        Raises:
            EventLogUnavailable: it is dead. Nobody is left to be told; this only ends what goes on.
        """
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self.died.set()
        if self.died.is_set():
            raise EventLogUnavailable("the process is dead") from ProcessDied()


class MortalLog:
    """Takes a step before and after each call of the log, whatever the log can do; between them is its commit."""

    def __init__(self, log: EventLog, life: Life) -> None:
        self._log = log
        self._life = life

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._log, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self._life.step()
            answer = method(*arguments, **options)
            if inspect.isawaitable(answer):
                return self._answered(answer)
            self._life.step()
            return answer

        return call

    def append_for(self, waiter: Waiter[Appended], event: NewEvent) -> None:
        self._life.step()
        self._log.append_for(SteppingWaiter(waiter, self._life.step), event)

    async def _answered(self, answer: Awaitable[_Result]) -> _Result:
        result = await answer
        self._life.step()
        return result


def mortal_log(log: EventLog, life: Life) -> EventLog:
    """Return an event log as seen by a process that may die at any call of it."""
    return cast(EventLog, MortalLog(log, life))
