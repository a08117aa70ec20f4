"""Hands stored events to the partner's handlers, at least once, whatever happens in between.

An event is claimed under a lease that is renewed while its handlers run. When the process dies, the lease ends and
somebody else claims the event; a worker that was only frozen finds its lease gone and its result is not recorded.

Senders and handlers are isolated: events are claimed from the senders in turns, each handler has a queue of its own
(``handler_queue``), and for a handler that cannot take an event now the event goes back to the log, with
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
from typing import Any

from enable_with_segment.components.install_context import InstallContexts
from enable_with_segment.components.subscription import Subscription
from enable_with_segment.db.backoff import RetryPolicy
from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import EventLog
from enable_with_segment.db.event_log.records import ClaimedEvent, EventLogUnavailable, Predecessor, Settlement
from enable_with_segment.db.event_log.states import HandlerState
from enable_with_segment.subscriptions.dispatch.attempt import Attempt
from enable_with_segment.subscriptions.dispatch.calling import call_handler
from enable_with_segment.subscriptions.dispatch.clock_watch import ClockWatch
from enable_with_segment.subscriptions.dispatch.handler_queue import Call, HandlerQueue
from enable_with_segment.subscriptions.dispatch.handler_queues import HandlerQueues
from enable_with_segment.subscriptions.dispatch.leases import Leases
from enable_with_segment.subscriptions.dispatch.limits import DispatchLimits
from enable_with_segment.subscriptions.dispatch.outcome import conclude
from enable_with_segment.subscriptions.dispatch.pauses import Pauses, PausesUnknown
from enable_with_segment.subscriptions.dispatch.preparation import Preparation
from enable_with_segment.subscriptions.dispatch.result_writer import ResultWriter
from enable_with_segment.subscriptions.observer import Observer

logger = logging.getLogger(__name__)

_CLAIM = 100
"""So few at a time that nobody who is being answered waits for a claim."""
_PREPARE = 50
_LOOK_AGAIN = 0.05
_NO_PREDECESSORS: Mapping[int, Sequence[Predecessor]] = {}


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
        self._pauses = Pauses(database, clock)
        self._clock_watch = ClockWatch(event_log, components.keys(), clock)
        self._policy = policy or RetryPolicy()
        self._limits = limits or DispatchLimits()
        self._settler = ResultWriter(event_log, database, waits=self._limits.settle_waits)
        self._preparation = Preparation(
            components, InstallContexts(database, clock), policy=self._policy, jitter=jitter
        )
        self._handler_queues = HandlerQueues(
            self._limits,
            self._pauses,
            begin=self._begin,
            through=self._through,
            clock=clock,
            jitter=jitter,
            monotonic=monotonic,
        )
        self._observer = observer or Observer()
        self._clock = clock
        self._jitter = jitter
        self._wake = asyncio.Event()
        self._stopping = False
        self._held_back = False
        self._leases = Leases(event_log, seconds=self._limits.lease_seconds, clock=clock, monotonic=monotonic)
        self._held: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()

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
                    if await self._claim_and_start():
                        await asyncio.sleep(0)  # a claim need not wait for anything, and others want to be answered
                    else:
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
        await self._clock_watch.look()
        self._handler_queues.tidy()
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
            self._start(self._prepare(claimed), claimed)
        return len(claimed)

    async def _finish(self, *, within: float | None = None) -> None:
        """Wait for everything that runs, and for what that starts in turn."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    async def _let_go(self) -> None:
        """Cancel what is still running and give its events back."""
        while tasks := list(self._tasks):  # one that ends instead may begin another
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self._leases.release_all()  # at once; what is still being noted says nothing about leases
        await self._settler.close()
        self._handler_queues.reset()
        self._held.clear()

    def _start(self, work: Coroutine[Any, Any, object], claimed: Sequence[ClaimedEvent]) -> asyncio.Task[Any]:
        """Do some work on claimed events; if it fails they are held no longer, so that somebody claims them again."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._finished(done, claimed))
        return task

    def _finished(self, task: asyncio.Task[Any], claimed: Sequence[ClaimedEvent]) -> None:
        self._tasks.discard(task)
        if self._held_back:
            self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("The dispatcher itself failed", exc_info=error)
            self._drop(claimed)
            self._wake.set()  # a slot is free, and nothing else would move the queue

    def _drop(self, claimed: Iterable[ClaimedEvent]) -> None:
        """Hold events no longer."""
        for event in claimed:
            if self._leases.drop(event):
                self._held[event.scope] -= 1
                if self._held[event.scope] <= 0:
                    del self._held[event.scope]

    async def _prepare(self, claimed: Sequence[ClaimedEvent]) -> None:
        """Put claimed events into the queues of their handlers."""
        batches: dict[HandlerQueue, None] = {}
        for start in range(0, len(claimed), _PREPARE):
            queues = await self._prepare_part(claimed[start : start + _PREPARE])
            for queue in queues:
                if queue.handler.batch is None:
                    self._handler_queues.move(queue)
                else:
                    batches[queue] = None  # so that the batches are as large as what was claimed allows
            await asyncio.sleep(0)
        for queue in batches:
            self._handler_queues.move(queue)

    async def _prepare_part(self, claimed: Sequence[ClaimedEvent]) -> Iterable[HandlerQueue]:
        now = self._clock()
        attempts: list[Attempt] = []
        ended: list[tuple[Settlement, ClaimedEvent]] = []
        unknown: list[Attempt] = []
        for item in claimed:
            prepared = await self._preparation.of(item, now)
            if isinstance(prepared, Settlement):
                ended.append((prepared, item))
            else:
                (unknown if prepared.verdicts else attempts).append(prepared)
        before = await self._predecessors(attempts)
        queues: dict[HandlerQueue, None] = {}
        for attempt in attempts:
            queues.update(dict.fromkeys(self._handler_queues.place(attempt, before.get(attempt.claimed.id, ()))))
        unknown += [attempt for attempt in attempts if attempt.calls_left == 0]
        if ended:
            self._start(self._settle(ended), [claimed for _, claimed in ended])
        if unknown:
            self._start(self._conclude(unknown), _claimed(unknown))
        return queues

    async def _predecessors(self, attempts: Sequence[Attempt]) -> Mapping[int, Sequence[Predecessor]]:
        """Find what comes before events that are to be handled in order."""
        ordered = [attempt.claimed.id for attempt in attempts if any(handler.ordered for handler in attempt.handlers)]
        if not ordered:
            return _NO_PREDECESSORS
        try:
            return await self._log.predecessors(ordered)
        except EventLogUnavailable as error:
            logger.warning("What comes before some events cannot be told: %s", error)
            unknown = (Predecessor(0, "", None, frozenset()),)
            return dict.fromkeys(ordered, unknown)

    def _begin(self, queue: HandlerQueue, call: Call) -> None:
        claimed = _claimed(call.attempts)
        self._leases.begin(claimed)
        self._start(self._call(queue, call), claimed)

    async def _call(self, queue: HandlerQueue, call: Call) -> None:
        """Call a handler, record the verdict for each event, and free the slot in any case."""
        failed: bool | None = None
        try:
            verdicts = await call_handler(queue, call, seconds=self._limits.handler_seconds, observer=self._observer)
            failed = all(verdict.state is HandlerState.RETRY for verdict in verdicts)
            for attempt, verdict in zip(call.attempts, verdicts, strict=True):
                attempt.verdicts.append(verdict)
            settling = self._through(call.attempts)
            if settling is not None and any(attempt.is_deletion for attempt in call.attempts):
                # Erasing takes longer than calling, so the slot stays taken until the deletion is settled.
                await asyncio.wait([settling])
        finally:
            queue.ended(call, failed=failed, now=self._clock())
        self._handler_queues.move(queue)

    def _through(self, attempts: Sequence[Attempt]) -> asyncio.Task[Any] | None:
        """Settle those events whose last handler is through with them now, if there are any."""
        concluded: list[Attempt] = []
        for attempt in attempts:
            attempt.calls_left -= 1
            if attempt.calls_left == 0:
                concluded.append(attempt)
        return self._start(self._conclude(concluded), _claimed(concluded)) if concluded else None

    async def _conclude(self, attempts: Sequence[Attempt]) -> None:
        """Store what became of events, together."""
        now = self._clock()
        ended = [
            (
                conclude(
                    attempt.claimed,
                    attempt.verdicts,
                    waiting=attempt.waiting,
                    policy=self._policy,
                    now=now,
                    jitter=self._jitter(),
                ),
                attempt.claimed,
            )
            for attempt in attempts
        ]
        stored = await self._settle(ended)
        done_in_order: list[int] = []
        for attempt, (settlement, _), is_stored in zip(attempts, ended, stored, strict=True):
            ordered = [handler for handler in attempt.handlers if handler.ordered]
            if ordered:
                still_open = frozenset(result.handler for result in settlement.results if result.due_at is not None)
                self._handler_queues.settled(attempt, stored=is_stored, open_handlers=still_open)
                if is_stored and any(handler.key not in still_open for handler in ordered):
                    done_in_order.append(attempt.claimed.id)
        if done_in_order:
            await self._wake_successors(done_in_order)

    async def _wake_successors(self, event_ids: Sequence[int]) -> None:
        """Make due what waited behind events that an ordered handler is done with."""
        try:
            if await self._log.wake_successors(event_ids, now=self._clock()):
                self._wake.set()
        except EventLogUnavailable as error:  # they become due by themselves
            logger.warning("What comes after some events could not be made due: %s", error)

    async def _settle(self, ended: Sequence[tuple[Settlement, ClaimedEvent]]) -> Sequence[bool]:
        """Store the ends of attempts and hold the events no longer; tells which of them could be stored."""
        try:
            stored = await self._settler.settle(ended)
            for (settlement, claimed), is_stored in zip(ended, stored, strict=True):
                if is_stored:
                    self._observer.settled(claimed, settlement.state)
            return stored
        finally:
            self._drop(claimed for _, claimed in ended)


def _claimed(attempts: Iterable[Attempt]) -> Sequence[ClaimedEvent]:
    return [attempt.claimed for attempt in attempts]
