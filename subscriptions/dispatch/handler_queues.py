"""The queues of all handlers: which of them can take an event now, and what becomes of it where none can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from enable_with_segment.components.handler import Handler
from enable_with_segment.db.clock import Clock
from enable_with_segment.db.event_log.records import Predecessor
from enable_with_segment.subscriptions.dispatch.attempt import Attempt
from enable_with_segment.subscriptions.dispatch.handler_queue import Call, HandlerQueue
from enable_with_segment.subscriptions.dispatch.limits import DispatchLimits
from enable_with_segment.subscriptions.dispatch.outcome import put_back_for
from enable_with_segment.subscriptions.dispatch.pauses import Pauses

BEHIND_ANOTHER = "waits for an earlier event of the same person"
_IS_BUSY = "busy with earlier events"
_CIRCUIT_IS_OPEN = "kept failing for this sender, so it is left alone for a while"
_PAUSED = "paused"
_NEXT_IN_ORDER = timedelta(seconds=10)
"""For an event behind one other. It is made due when that one is done (``wake_successors``), unless the process dies
in between."""


class HandlerQueues:
    """Places attempts into queues, and takes them out again when they would wait there for too long.

    Args:
        begin: starts a call of a handler_queue.
        through: told of attempts that a handler is done with, in one way or the other.
    """

    def __init__(
        self,
        limits: DispatchLimits,
        pauses: Pauses,
        *,
        begin: Callable[[HandlerQueue, Call], None],
        through: Callable[[Sequence[Attempt]], object],
        clock: Clock,
        jitter: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._pauses = pauses
        self._begin = begin
        self._through = through
        self._clock = clock
        self._jitter = jitter
        self._monotonic = monotonic
        self._handler_queues: dict[tuple[str, str], HandlerQueue] = {}

    def place(self, attempt: Attempt, before: Sequence[Predecessor]) -> list[HandlerQueue]:
        """Put an event into the queues of those of its handlers that can take it; the others have to wait."""
        now = self._clock()
        taken: list[HandlerQueue] = []
        for handler in attempt.handlers:
            queue = self._handler_queue(attempt.claimed.component, handler)
            obstacle = self._obstacle(attempt, queue, before, now)
            if obstacle is None:
                attempt.calls_left += 1
                queue.put(attempt)
                taken.append(queue)
            else:
                attempt.wait(handler.key, *obstacle)
        return taken

    def _obstacle(
        self, attempt: Attempt, queue: HandlerQueue, before: Sequence[Predecessor], now: datetime
    ) -> tuple[datetime, str] | None:
        """Return until when a handler cannot take an event, and why; ``None`` when it can."""
        handler = queue.handler
        own = attempt.own_wait(handler.key, now) if attempt.claimed.unfinished else None
        if own is not None and own.reason != BEHIND_ANOTHER:  # that is over as soon as the earlier event is done
            return own.until, own.reason
        if self._pauses.handler_is_paused(attempt.claimed.component, handler):
            return self._later(attempt, now), _PAUSED
        if before and handler.ordered and _has_to_wait(attempt, queue, before):
            longest = _NEXT_IN_ORDER if len(before) == 1 else None
            return self._later(attempt, now, longest=longest), BEHIND_ANOTHER
        circuit = queue.circuit(attempt.sender)
        if not circuit.admits(now):
            return self._later(attempt, now, not_before=circuit.reopens_at(now)), _CIRCUIT_IS_OPEN
        if not queue.has_room():
            return self._later(attempt, now), _IS_BUSY
        return None

    def tidy(self) -> None:
        """Take out of the queues what would wait there for too long, and let the others go on."""
        for queue in list(self._handler_queues.values()):
            if self._pauses.handler_is_paused(queue.component, queue.handler):
                self._put_back(queue, queue.take_all(), _PAUSED)
            self._put_back(queue, queue.shed(), _IS_BUSY)
            self.move(queue)

    def move(self, queue: HandlerQueue) -> None:
        """Begin the calls that a queue has places for."""
        now = self._clock()
        for attempt, until in queue.turned_away(now):
            self._put_back(queue, [attempt], _CIRCUIT_IS_OPEN, not_before=until)
        while (call := queue.next_call(now)) is not None:
            self._begin(queue, call)

    def settled(self, attempt: Attempt, *, stored: bool, open_handlers: frozenset[str]) -> None:
        """Let the next event of the same person go, in the queues of handlers that want them in order."""
        for handler in attempt.handlers:
            queue = self._handler_queues.get((attempt.claimed.component, handler.key))
            if not handler.ordered or queue is None:
                continue
            go_on = stored and handler.key not in open_handlers and attempt.finished(handler.key)
            self._put_back(queue, queue.next_in_line(attempt, go_on=go_on), BEHIND_ANOTHER)
            self.move(queue)

    def reset(self) -> None:
        """Forget what waits and what runs, when the dispatcher lets go of it."""
        for queue in self._handler_queues.values():
            queue.reset()

    def _handler_queue(self, component: str, handler: Handler) -> HandlerQueue:
        key = (component, handler.key)
        queue = self._handler_queues.get(key)
        if queue is None:
            queue = self._handler_queues[key] = HandlerQueue(
                component,
                handler,
                places=self._limits.calls_per_handler,
                seconds=self._limits.queue_seconds,
                circuit_policy=self._limits.circuit,
                monotonic=self._monotonic,
            )
        return queue

    def _put_back(
        self,
        queue: HandlerQueue,
        attempts: Sequence[Attempt],
        reason: str,
        *,
        not_before: datetime | None = None,
    ) -> None:
        """Let a handler have events later that wait in its handler_queue."""
        if not attempts:
            return
        now = self._clock()
        for attempt in attempts:
            attempt.wait(queue.handler.key, self._later(attempt, now, not_before=not_before), reason)
        self._through(attempts)

    def _later(
        self, attempt: Attempt, now: datetime, *, not_before: datetime | None = None, longest: timedelta | None = None
    ) -> datetime:
        """Return when to try again; not all of them at the same moment."""
        wait = put_back_for(attempt.claimed.received_at, now)
        wait = wait if longest is None else min(wait, longest)
        soonest = now + wait * (0.5 + 0.5 * self._jitter())
        return soonest if not_before is None else max(soonest, not_before + wait * self._jitter())


def _has_to_wait(attempt: Attempt, queue: HandlerQueue, before: Sequence[Predecessor]) -> bool:
    """Tell whether an earlier event of the same person is neither through nor ahead of this one in the queue."""
    handler = queue.handler
    return any(
        (predecessor.id == 0 or handler.wants_name(predecessor.type, predecessor.event))
        and handler.key not in predecessor.finished
        and not queue.is_in_line(attempt, predecessor.id)
        for predecessor in before
    )
