"""What waits for the next transaction of the SQLite log: events on their way in, and results of handlers.

Whatever was submitted while the event loop went once round its ready tasks is stored together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeAlias

from enable_with_segment.db.event_log.group_commit import Waiter
from enable_with_segment.db.event_log.records import Appended, EventLogUnavailable, NewEvent, Settlement, TooManyWaiting

_LARGE_GROUP = 256
"""A group of this size is written without waiting for more: one more event would make it hardly cheaper for each."""
_MOST_ROUNDS = 16
"""How often the event loop may go round while a group is still growing."""

Store: TypeAlias = Callable[
    [Sequence[NewEvent], Sequence[Settlement]],
    tuple[Sequence[Appended | EventLogUnavailable], Sequence[bool | EventLogUnavailable]],
]


class Gathering:
    """Gathers, has it stored, and tells each who waits.

    Args:
        store: stores events and results in one go; returns what became of each, in order, and raises nothing.
        most_waiting: the most events and batches of results that may wait; more are refused.
    """

    def __init__(self, store: Store, *, most_waiting: int) -> None:
        self._store = store
        self._most_waiting = most_waiting
        self._events: list[tuple[NewEvent, Waiter[Appended]]] = []
        self._results: list[tuple[Sequence[Settlement], asyncio.Future[Sequence[bool]]]] = []
        self._flush_is_due = False

    def add_event(self, waiter: Waiter[Appended], event: NewEvent) -> None:
        """Tell ``waiter`` once the event is durable, or cannot be.

        Raises:
            TooManyWaiting: then the waiter is told nothing.
        """
        self._flush_soon()
        self._events.append((event, waiter))

    def add_results(self, settlements: Sequence[Settlement]) -> asyncio.Future[Sequence[bool]]:
        """Return what will tell which of the results were stored.

        Raises:
            TooManyWaiting: none of them will be.
        """
        self._flush_soon()
        future: asyncio.Future[Sequence[bool]] = asyncio.get_running_loop().create_future()
        self._results.append((settlements, future))
        return future

    def flush(self) -> None:
        """Store what waits, at once."""
        self._flush_is_due = False
        events, self._events = [item for item in self._events if not item[1].done()], []
        results, self._results = [item for item in self._results if not item[1].done()], []
        if not events and not results:
            return
        appended, settled = self._store(
            [event for event, _ in events], [item for settlements, _ in results for item in settlements]
        )
        for (_, waiter), outcome in zip(events, appended, strict=True):
            if waiter.done():  # others are told at once, and what they do then is not known here
                continue
            if isinstance(outcome, Exception):
                waiter.set_exception(outcome)
            else:
                waiter.set_result(outcome)
        answers = iter(settled)
        for settlements, future in results:
            of_these = list(islice(answers, len(settlements)))
            failure = next((answer for answer in of_these if isinstance(answer, Exception)), None)
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result([answer is True for answer in of_these])

    def _flush_soon(self) -> None:
        if len(self._events) + len(self._results) >= self._most_waiting:
            raise TooManyWaiting("too many events are waiting to be stored")
        if not self._flush_is_due:
            loop = asyncio.get_running_loop()
            self._flush_is_due = True
            loop.call_soon(self._flush_when_complete, loop, 0, _MOST_ROUNDS)

    def _flush_when_complete(self, loop: asyncio.AbstractEventLoop, before: int, rounds: int) -> None:
        """Go on collecting as long as each round of the event loop brings more events, within bounds."""
        waiting = len(self._events)
        if before < waiting < _LARGE_GROUP and rounds:
            loop.call_soon(self._flush_when_complete, loop, waiting, rounds - 1)
        else:
            self.flush()
