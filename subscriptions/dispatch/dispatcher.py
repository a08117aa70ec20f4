"""Hands stored events to the partner's handlers, at least once, whatever happens in between.

An event is claimed under a lease that is renewed while its handlers run. When the process dies, the lease ends and
somebody else claims the event; a worker that was only frozen finds its lease gone and its result is not recorded.

Nobody holds up anybody else: events are claimed from the senders in turns, each handler has a lane of its own
(``subscriptions.dispatch.lane``), and for a handler that cannot take an event now the event goes back to the log, with
what its other handlers made of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from db.clock import Clock, utc_now
from db.database import Database
from db.event_log.log import EventLog
from db.event_log.records import ClaimedEvent, EventLogUnavailable, Predecessor, Settlement
from db.event_log.tables import EventState, HandlerState
from subscriptions.dispatch.attempt import Attempt
from subscriptions.dispatch.backoff import RetryPolicy
from subscriptions.dispatch.circuit import CircuitPolicy
from subscriptions.dispatch.lane import Call, Lane
from subscriptions.dispatch.leases import Leases
from subscriptions.dispatch.outcome import Verdict, batch_errors, conclude, judge, put_back_for
from subscriptions.dispatch.pauses import Pauses, PausesUnknown
from subscriptions.dispatch.settler import Settler
from subscriptions.errors import DeliveryRefused, HandlerError
from subscriptions.event_reader import check_event, parse_event
from subscriptions.handler import Handler
from subscriptions.install_context import InstallContexts
from subscriptions.observer import Observer
from subscriptions.subscription import Subscription

logger = logging.getLogger(__name__)

_CLAIM = 500
_PREPARE = 50
_LOOK_AGAIN = 0.05
_NO_PREDECESSORS: Mapping[int, Sequence[Predecessor]] = {}


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """How the dispatcher spends its time.

    ``handler_seconds`` is how long one call may take. ``calls_per_handler`` run at the same moment.
    ``events_in_flight`` are held in all, and of one sender no more than are still free. ``lane_seconds`` is how much
    work may wait for a handler. ``stop_seconds`` is the grace at shutdown. ``settle_waits`` are the seconds after which
    a result is stored again that could not be: in all as long as a lease, or as a database takes to restart.
    """

    handler_seconds: float = 30.0
    lease_seconds: float = 15.0
    poll_seconds: float = 1.0
    stop_seconds: float = 10.0
    calls_per_handler: int = 32
    events_in_flight: int = 4_000
    lane_seconds: float = 2.0
    settle_waits: tuple[float, ...] = (0.1, 0.4, 1.0, 2.0, 4.0, 7.5)
    circuit: CircuitPolicy = field(default_factory=CircuitPolicy)


class Dispatcher:
    """Runs the handlers of some components.

    Several dispatchers may work on one PostgreSQL event log at the same time.

    Args:
        components: the subscriptions by name; events of other components are left alone.
        database: the control store, for the handlers' install context, what is paused, and the audit.
        observer: told of every handler's result and every event that is settled.
        jitter: a random number from 0 to 1 for each wait.
        monotonic: a clock in seconds that only goes forward, for how long calls take.
    """

    def __init__(
        self,
        components: Mapping[str, Subscription],
        event_log: EventLog,
        database: Database,
        *,
        policy: RetryPolicy | None = None,
        limits: DispatchLimits | None = None,
        observer: Observer | None = None,
        clock: Clock = utc_now,
        jitter: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._components = components
        self._log = event_log
        self._contexts = InstallContexts(database, clock)
        self._pauses = Pauses(database, clock)
        self._policy = policy or RetryPolicy()
        self._limits = limits or DispatchLimits()
        self._settler = Settler(event_log, database, waits=self._limits.settle_waits)
        self._observer = observer or Observer()
        self._clock = clock
        self._jitter = jitter
        self._monotonic = monotonic
        self._wake = asyncio.Event()
        self._stopping = False
        self._held_back = False
        self._leases = Leases(event_log, seconds=self._limits.lease_seconds, clock=clock)
        self._held: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lanes: dict[tuple[str, str], Lane] = {}

    def wake(self) -> None:
        """Look for events now instead of at the next poll."""
        self._wake.set()

    def stop(self) -> None:
        """Let :meth:`run` claim nothing more, finish what it holds and return."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Handle events until :meth:`stop` or cancellation; events that are cut off go back to the log."""
        async with self._leases.kept_alive():
            try:
                while not self._stopping:
                    self._wake.clear()
                    if not await self._claim_and_start():
                        # While it is full, look often at what fills it: a handler may have begun to hang.
                        wait = _LOOK_AGAIN if self._held_back else self._limits.poll_seconds
                        with suppress(TimeoutError):  # not wait_for, which can swallow a cancellation on Python 3.11
                            async with asyncio.timeout(min(wait, self._limits.poll_seconds)):
                                await self._wake.wait()
                await self._finish(within=self._limits.stop_seconds)
            finally:
                await self._let_go()

    async def run_due(self) -> int:
        """Handle everything that is due, until nothing is left that is due now; returns the number of events."""
        worked_on = 0
        async with self._leases.kept_alive():
            try:
                while claimed := await self._claim_and_start():
                    worked_on += claimed
                    await self._finish()
            finally:
                await self._let_go()
        return worked_on

    async def idle(self, *, poll_seconds: float = 0.05) -> None:
        """Wait until a running dispatcher has nothing left that is due now."""
        while self._tasks or await self._log.due(self._components.keys(), now=self._clock()):  # noqa: ASYNC110
            await asyncio.sleep(poll_seconds)  # the log may be worked on by other processes too

    async def _claim_and_start(self) -> int:
        try:
            await self._pauses.refresh()
        except PausesUnknown as error:
            logger.warning("No events are claimed: %s", error)
            return 0
        self._look_after_lanes()
        components = [name for name in self._components if not self._pauses.component_is_paused(name)]
        free = self._limits.events_in_flight - self._leases.count
        # A sender may hold as much as is free: one alone gets half of everything, and a new one always finds a place.
        skip = [sender for sender, held in self._held.items() if held >= free]
        # Looking for events passes over those that are held, so it waits until it is worth it.
        is_full = free < max(1, min(_CLAIM, self._limits.events_in_flight // 8))
        self._held_back = bool(skip) or is_full
        if is_full or not components:
            return 0
        claimed = await self._leases.claim(components, limit=min(free, _CLAIM), skip=skip)
        if claimed:
            self._held.update(event.scope for event in claimed)
            self._start(self._prepare(claimed))
        return len(claimed)

    async def _finish(self, *, within: float | None = None) -> None:
        """Wait for everything that runs, and for what that starts in turn."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    async def _let_go(self) -> None:
        """Cancel what is still running and give its events back."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._leases.release_all()
        for lane in self._lanes.values():
            lane.reset()
        self._held.clear()

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if self._held_back:
            self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("The dispatcher itself failed", exc_info=error)

    async def _prepare(self, claimed: Sequence[ClaimedEvent]) -> None:
        """Put claimed events into the lanes of their handlers."""
        batches: dict[Lane, None] = {}
        for start in range(0, len(claimed), _PREPARE):
            part = claimed[start : start + _PREPARE]
            attempts = [attempt for item in part if (attempt := await self._prepare_one(item)) is not None]
            before = await self._predecessors(attempts)
            lanes: dict[Lane, None] = {}
            for attempt in attempts:
                lanes.update(dict.fromkeys(self._place(attempt, before.get(attempt.claimed.id, ()))))
                if attempt.calls_left == 0:
                    self._start(self._settle_attempt(attempt))
            for lane in lanes:
                if lane.handler.batch is None:
                    self._move(lane)
                else:
                    batches[lane] = None  # so that the batches are as large as what was claimed allows
            await asyncio.sleep(0)
        for lane in batches:
            self._move(lane)

    async def _prepare_one(self, claimed: ClaimedEvent) -> Attempt | None:
        """Return the attempt at an event, or settle it when there is nothing to call."""
        now = self._clock()
        if claimed.suppressed:
            reason = "the person was deleted at or after the event's time"
            settlement = Settlement(claimed.id, claimed.lease, EventState.SUPPRESSED, now, error=reason)
            self._start(self._settle(settlement, claimed))
            return None
        subscription = self._components[claimed.component]
        try:
            event = parse_event(claimed.body, received_at=claimed.received_at, display_name=subscription.display_name)
            check_event(event)
            install = await self._contexts.find(
                account=claimed.account, component=claimed.component, install_id=claimed.install_id
            )
        except DeliveryRefused as error:
            settlement = Settlement(claimed.id, claimed.lease, EventState.DEAD_LETTER, now, error=error.message)
            self._start(self._settle(settlement, claimed))
            return None
        except Exception as error:  # the control store is away: try again, like after a failed handler
            wait = self._policy.delay(claimed.attempts + 1, jitter=self._jitter())
            reason = f"install context: {type(error).__name__}"
            settlement = Settlement(
                claimed.id, claimed.lease, EventState.PENDING, now, error=reason, available_at=now + wait
            )
            self._start(self._settle(settlement, claimed))
            return None
        attempt = Attempt(claimed, event, install)
        if claimed.interrupted:
            logger.warning("The last attempt at event %d ended without a result", claimed.id)
            reason = "the attempt ended without a result, so nobody knows its effect"
            attempt.verdicts = [
                Verdict(handler.key, HandlerState.UNKNOWN, reason) for handler in self._handlers_left(attempt)
            ]
            self._start(self._settle_attempt(attempt))
            return None
        return attempt

    def _handlers_left(self, attempt: Attempt) -> list[Handler]:
        done = {result.handler for result in attempt.claimed.finished}
        wanted = self._components[attempt.claimed.component].handlers_of(attempt.event)
        return [handler for handler in wanted if handler.key not in done]

    async def _predecessors(self, attempts: Sequence[Attempt]) -> Mapping[int, Sequence[Predecessor]]:
        """Find what comes before events that are to be handled in order."""
        if not any(handler.ordered for component in self._components.values() for handler in component.handlers):
            return _NO_PREDECESSORS
        ordered = [
            attempt.claimed.id
            for attempt in attempts
            if any(handler.ordered for handler in self._handlers_left(attempt))
        ]
        if not ordered:
            return _NO_PREDECESSORS
        try:
            return await self._log.predecessors(ordered)
        except EventLogUnavailable as error:
            logger.warning("What comes before some events cannot be told: %s", error)
            unknown = (Predecessor(0, "", None, frozenset()),)
            return dict.fromkeys(ordered, unknown)

    def _place(self, attempt: Attempt, before: Sequence[Predecessor]) -> Iterable[Lane]:
        """Put an event into the lanes of those of its handlers that can take it; the others have to wait."""
        now = self._clock()
        unfinished = {outcome.handler: outcome for outcome in attempt.claimed.unfinished}
        wait = put_back_for(attempt.claimed.received_at, now)
        put_back = now + wait * (0.5 + 0.5 * self._jitter())
        for handler in self._handlers_left(attempt):
            lane = self._lane(attempt.claimed.component, handler)
            earlier = unfinished.get(handler.key)
            circuit = lane.circuit(attempt.sender)
            if earlier is not None and earlier.due_at is not None and earlier.due_at > now:
                attempt.wait(handler.key, earlier.due_at, earlier.error or "waits for its next attempt")
            elif self._pauses.handler_is_paused(attempt.claimed.component, handler):
                attempt.wait(handler.key, put_back, "paused")
            elif handler.ordered and _has_to_wait(attempt, handler, lane, before):
                attempt.wait(handler.key, put_back, "waits for an earlier event of the same person")
            elif not circuit.admits(now):
                reopens = circuit.reopens_at(now) + wait * self._jitter()  # not all of them at the same moment
                attempt.wait(handler.key, max(put_back, reopens), _CIRCUIT_IS_OPEN)
            elif not lane.has_room():
                attempt.wait(handler.key, put_back, _IS_BUSY)
            else:
                attempt.calls_left += 1
                lane.put(attempt)
                yield lane

    def _lane(self, component: str, handler: Handler) -> Lane:
        key = (component, handler.key)
        if key not in self._lanes:
            self._lanes[key] = Lane(
                component,
                handler,
                places=self._limits.calls_per_handler,
                seconds=self._limits.lane_seconds,
                circuit_policy=self._limits.circuit,
                monotonic=self._monotonic,
            )
        return self._lanes[key]

    def _look_after_lanes(self) -> None:
        """Take out of the lanes what would wait there for too long."""
        for lane in list(self._lanes.values()):
            if self._pauses.handler_is_paused(lane.component, lane.handler):
                self._put_back(lane, lane.take_all(), "paused")
            self._put_back(lane, lane.shed(), _IS_BUSY)
            self._move(lane)

    def _move(self, lane: Lane) -> None:
        """Begin the calls that a lane has places for."""
        now = self._clock()
        for attempt, until in lane.turned_away(now):
            self._put_back(lane, [attempt], _CIRCUIT_IS_OPEN, until=until)
        while (call := lane.next_call(now)) is not None:
            self._start(self._call(lane, call))

    def _put_back(self, lane: Lane, attempts: Sequence[Attempt], reason: str, *, until: datetime | None = None) -> None:
        """Let a handler have events later that wait in its lane."""
        now = self._clock()
        for attempt in attempts:
            wait = put_back_for(attempt.claimed.received_at, now)
            soonest = now + wait * (0.5 + 0.5 * self._jitter())
            if until is not None:
                soonest = max(soonest, until + wait * self._jitter())
            attempt.wait(lane.handler.key, soonest, reason)
            self._one_less(attempt)

    async def _call(self, lane: Lane, call: Call) -> None:
        """Call a handler, and note what that means for each event."""
        handler, events = lane.handler, [attempt.event for attempt in call.attempts]
        first = call.attempts[0]
        started = self._observer.clock()
        try:
            if handler.batch is None:
                work = handler.call(events[0], first.install, first.claimed.settings)
            else:
                work = handler.call_batch(events, first.install, first.claimed.settings)
            answer, error = await self._guarded(lane, work)
        except asyncio.CancelledError:
            lane.ended(call, failed=None, now=self._clock())
            raise
        all_alike = error is not None or handler.batch is None
        errors = [error] * len(events) if all_alike else batch_errors(answer, events)
        verdicts = [judge(handler.key, failure) for failure in errors]
        lane.ended(call, failed=all(verdict.state is HandlerState.RETRY for verdict in verdicts), now=self._clock())
        for attempt, verdict in zip(call.attempts, verdicts, strict=True):
            self._observer.handled(handler.key, attempt.claimed, attempt.event, verdict.state, started=started)
            attempt.verdicts.append(verdict)
            self._one_less(attempt)
        self._move(lane)

    async def _guarded(self, lane: Lane, work: Coroutine[Any, Any, object]) -> tuple[object, BaseException | None]:
        """Await a handler within its time; whatever it raises is an answer, never our end."""
        try:
            async with asyncio.timeout(self._limits.handler_seconds):
                return await work, None
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return None, RuntimeError(f"the handler was cancelled from inside: {error}")
        except HandlerError as error:
            return None, error
        except Exception as error:
            logger.warning("Handler %s of component %s failed", lane.handler.key, lane.component, exc_info=error)
            return None, error

    def _one_less(self, attempt: Attempt) -> None:
        """Settle an event when the last of its handlers is through with it."""
        attempt.calls_left -= 1
        if attempt.calls_left == 0:
            self._start(self._settle_attempt(attempt))

    async def _settle_attempt(self, attempt: Attempt) -> None:
        claimed = attempt.claimed
        settlement = conclude(
            claimed,
            attempt.verdicts,
            waiting=attempt.waiting,
            policy=self._policy,
            now=self._clock(),
            jitter=self._jitter(),
        )
        stored = await self._settle(settlement, claimed)
        open_handlers = {result.handler for result in settlement.results if result.due_at is not None}
        for handler in self._components[claimed.component].handlers:
            if handler.ordered and (lane := self._lanes.get((claimed.component, handler.key))) is not None:
                go_on = stored and handler.key not in open_handlers and attempt.finished(handler.key)
                left = lane.next_in_line(attempt, go_on=go_on)
                self._put_back(lane, left, "waits for an earlier event of the same person")
                self._move(lane)

    async def _settle(self, settlement: Settlement, claimed: ClaimedEvent) -> bool:
        """Store the end of an attempt and hold the event no longer; tells whether that could be done."""
        try:
            stored = await self._settler.settle(settlement, claimed)
            if stored:
                self._observer.settled(claimed, settlement.state)
            return stored
        finally:
            self._leases.drop(claimed)
            self._held[claimed.scope] -= 1
            if self._held[claimed.scope] <= 0:
                del self._held[claimed.scope]


_IS_BUSY = "busy with earlier events"
_CIRCUIT_IS_OPEN = "kept failing for this sender, so it is left alone for a while"


def _has_to_wait(attempt: Attempt, handler: Handler, lane: Lane, before: Sequence[Predecessor]) -> bool:
    """Tell whether an earlier event of the same person is not through, and not in the lane ahead of this one either."""
    return any(
        (predecessor.id == 0 or handler.wants_name(predecessor.type, predecessor.event))
        and handler.key not in predecessor.finished
        and not lane.is_in_line(attempt, predecessor.id)
        for predecessor in before
    )
