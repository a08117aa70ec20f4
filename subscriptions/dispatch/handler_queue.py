"""The queue of one handler: what waits for it, what it works on, and whether it can take more.

Handler queues isolate handlers (bulkhead). A queue holds no more than its handler gets through in about two seconds,
so a slow or hanging handler fills neither the dispatcher nor the time of others. Events that do not fit are deferred
for that handler alone. Inside a queue the senders take turns, and one sender's calls never take the last free place.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from enable_with_segment.components.handler import Handler
from enable_with_segment.subscriptions.dispatch.attempt import Attempt
from enable_with_segment.subscriptions.dispatch.circuit import CLOSED, Circuit, CircuitPolicy, CircuitState
from enable_with_segment.subscriptions.dispatch.fair_queue import FairQueue

_HALF_LIFE_SECONDS = 1.0
_MOST_CIRCUITS = 10_000


@dataclass(slots=True, eq=False)
class Call:
    """One call of a handler; several events only for a handler that takes batches."""

    sender: str
    attempts: list[Attempt]
    probe: bool


class HandlerQueue:
    """One handler's place in the dispatcher.

    Args:
        places: how many calls may run at the same moment.
        seconds: how much work may wait, measured by what the handler gets through at present.
        monotonic: a clock in seconds that only goes forward.
    """

    def __init__(
        self,
        component: str,
        handler: Handler,
        *,
        places: int,
        seconds: float,
        circuit_policy: CircuitPolicy,
        monotonic: Callable[[], float],
    ) -> None:
        self.component = component
        self.handler = handler
        self._places = places
        self._seconds = seconds
        self._policy = circuit_policy
        self._monotonic = monotonic
        self._queue: FairQueue[str, Attempt] = FairQueue()
        self._calls: dict[Call, None] = {}
        self._running: Counter[str] = Counter()
        self._recent_events = 0.0
        self._recent_seconds = 0.0
        self._progress = 0.0
        self._circuits: dict[str, Circuit] = {}
        self._people: dict[tuple[str, str], deque[Attempt]] = {}

    def circuit(self, sender: str) -> Circuit:
        """Return the circuit breaker of the handler for a sender."""
        return self._circuits.get(sender, CLOSED)

    def has_room(self) -> bool:
        """Tell whether the queue can take one more event: whether its turn would come soon."""
        return len(self._queue) < self._smallest_queue or self._seconds_of_work() <= self._seconds

    def put(self, attempt: Attempt) -> None:
        """Let an event wait for its call."""
        if self.handler.ordered and attempt.person is not None:
            key = (attempt.sender, attempt.person)
            line = self._people.get(key)
            if line is not None:
                line.append(attempt)
                return
            self._people[key] = deque([attempt])
        self._queue.put(attempt.sender, attempt)

    def is_in_line(self, attempt: Attempt, event_id: int) -> bool:
        """Tell whether an event of the same person is in this queue already."""
        line = self._people.get((attempt.sender, attempt.person or ""), ())
        return any(other.claimed.id == event_id for other in line)

    def next_call(self, now: datetime) -> Call | None:
        """Begin the next call, if there is a place for it."""
        free = self._places - len(self._calls)
        if free <= 0 or not self._queue:
            return None
        sender = self._queue.next_key(
            lambda key: self._running[key] < free and self.circuit(key).admits(now)  # the last place is another one's
        )
        if sender is None:
            return None
        circuit = self.circuit(sender)
        probe = circuit.state(now) is CircuitState.HALF_OPEN
        if probe:
            self._circuits[sender] = circuit.started(now)
        most = 1 if probe or self.handler.batch is None else self.handler.batch
        attempts = self._queue.take(sender, most, _may_share_a_call)
        call = Call(sender, attempts, probe)
        if not self._calls:
            self._progress = self._monotonic()
        self._calls[call] = None
        self._running[sender] += 1
        return call

    def ended(self, call: Call, *, failed: bool | None, now: datetime) -> None:
        """Note how a call ended; ``None`` when it was cut off by the end of the process."""
        del self._calls[call]
        self._running[call.sender] -= 1
        if not self._running[call.sender]:
            del self._running[call.sender]
        monotonic = self._monotonic()
        since = monotonic - self._progress
        fading = 0.5 ** (since / _HALF_LIFE_SECONDS)
        self._recent_events = self._recent_events * fading + len(call.attempts)
        self._recent_seconds = self._recent_seconds * fading + since
        self._progress = monotonic
        circuit = self.circuit(call.sender)
        if failed is None:
            circuit = circuit.abandoned() if call.probe else circuit
        elif failed:
            circuit = circuit.failed(now, self._policy, probe=call.probe)
        else:
            circuit = circuit.succeeded()
        if circuit == CLOSED:
            self._circuits.pop(call.sender, None)
        else:
            self._circuits[call.sender] = circuit
            if len(self._circuits) > _MOST_CIRCUITS:
                self._circuits.pop(next(iter(self._circuits)))

    def turned_away(self, now: datetime) -> list[tuple[Attempt, datetime]]:
        """Take out what waits behind an open circuit, with the time when it may be tried."""
        refused: list[tuple[Attempt, datetime]] = []
        for sender in self._queue.waiting() if self._circuits else ():
            circuit = self.circuit(sender)
            if not circuit.admits(now):
                until = circuit.reopens_at(now)
                refused += [(attempt, until) for attempt in self._queue.take_all(sender)]
        return refused

    def shed(self) -> list[Attempt]:
        """Take out the newest of what waits, when calls take so long that it will not be its turn soon."""
        shed: list[Attempt] = []
        while len(self._queue) > self._smallest_queue and self._seconds_of_work() > self._seconds:
            newest = self._queue.take_newest()
            if newest is None:
                break
            shed.append(newest)
        return shed

    def take_all(self) -> list[Attempt]:
        """Take out everything that waits."""
        return [attempt for sender in self._queue.waiting() for attempt in self._queue.take_all(sender)]

    def reset(self) -> None:
        """Forget what waits and what runs, when the dispatcher lets go of it; what was learned stays."""
        self.take_all()
        for call in list(self._calls):
            if call.probe:
                self._circuits[call.sender] = self.circuit(call.sender).abandoned()
        self._calls.clear()
        self._running.clear()
        self._people.clear()

    def next_in_line(self, attempt: Attempt, *, go_on: bool) -> list[Attempt]:
        """Let the next event of a person go, once this one is settled; or take out all that came after it.

        Returns:
            What was taken out, when the person's events cannot go on.
        """
        key = (attempt.sender, attempt.person or "")
        line = self._people.get(key)
        if line is None or line[0] is not attempt:
            return []
        line.popleft()
        if go_on and line:
            self._queue.put(attempt.sender, line[0])
            return []
        del self._people[key]
        return list(line)

    @property
    def _smallest_queue(self) -> int:
        return self._places * (self.handler.batch or 1)

    def _seconds_of_work(self) -> float:
        """Estimate how long the newest waiting event would have to wait for its call."""
        if not self._calls:
            return 0.0
        # The best that can be true: what runs now ends now. So a call that hangs shows, and a burst does not.
        since = self._monotonic() - self._progress
        fading = 0.5 ** (since / _HALF_LIFE_SECONDS)
        running = sum(len(call.attempts) for call in self._calls)
        events = self._recent_events * fading + running
        seconds = self._recent_seconds * fading + since
        return float(len(self._queue) * seconds / events)


def _may_share_a_call(first: Attempt, other: Attempt) -> bool:
    """Events of one call have the same sender already; context and settings have to be the same as well."""
    return (
        (first.install is other.install or first.install == other.install)
        and first.claimed.settings == other.claimed.settings
        and first.claimed.account == other.claimed.account
    )
