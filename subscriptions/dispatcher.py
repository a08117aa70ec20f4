"""Hands stored events to the partner's handlers, at least once, whatever happens in between.

An event is claimed under a lease that is renewed while its handlers run. When the process dies, the lease ends and
somebody else claims the event; a worker that was only frozen finds its lease gone and its result is not recorded.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from db.clock import Clock, utc_now
from db.control import audit
from db.database import Database
from db.event_log.log import EventLog
from db.event_log.records import ClaimedEvent, Settlement
from db.event_log.tables import EventState, HandlerState
from subscriptions.backoff import RetryPolicy
from subscriptions.delivery import check_event, parse_event
from subscriptions.errors import DeliveryRefused, HandlerError
from subscriptions.event import Event
from subscriptions.handler import Handler
from subscriptions.install_context import InstallContext, InstallContexts
from subscriptions.leases import Leases
from subscriptions.observer import Observer
from subscriptions.outcome import Verdict, batch_errors, conclude, judge
from subscriptions.subscription import Subscription

logger = logging.getLogger(__name__)

_CLAIM = 500


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """How the dispatcher spends its time.

    ``handler_seconds`` is how long one call may take. ``calls_per_handler`` run at the same moment, so a handler that
    hangs takes no one else's turn; ``events_in_flight`` are held in all. ``stop_seconds`` is the grace at shutdown.
    """

    handler_seconds: float = 30.0
    lease_seconds: float = 15.0
    poll_seconds: float = 1.0
    stop_seconds: float = 10.0
    calls_per_handler: int = 32
    events_in_flight: int = 2_000


@dataclass(slots=True)
class _Run:
    """One attempt at one event."""

    claimed: ClaimedEvent
    event: Event
    install: InstallContext
    calls_left: int
    verdicts: list[Verdict] = field(default_factory=list)


class Dispatcher:
    """Runs the handlers of some components.

    Several dispatchers may work on one PostgreSQL event log at the same time.

    Args:
        components: the subscriptions by name; events of other components are left alone.
        database: the control store, for the handlers' install context and the audit.
        jitter: a random number from 0 to 1 for each wait.
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
    ) -> None:
        self._components = components
        self._log = event_log
        self._database = database
        self._contexts = InstallContexts(database, clock)
        self._policy = policy or RetryPolicy()
        self._limits = limits or DispatchLimits()
        self._observer = observer or Observer()
        self._clock = clock
        self._jitter = jitter
        self._wake = asyncio.Event()
        self._stopping = False
        self._full = False
        self._leases = Leases(event_log, seconds=self._limits.lease_seconds, clock=clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: dict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(self._limits.calls_per_handler)
        )

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
                        with suppress(TimeoutError):
                            await asyncio.wait_for(self._wake.wait(), self._limits.poll_seconds)
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
        room = min(self._limits.events_in_flight - self._leases.count, _CLAIM)
        self._full = room <= 0
        if self._full:
            return 0
        claimed = await self._leases.claim(self._components.keys(), limit=room)
        if claimed:
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

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._full:
            self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("The dispatcher itself failed", exc_info=error)

    async def _prepare(self, claimed: Sequence[ClaimedEvent]) -> None:
        """Sort claimed events into calls; each handler gets its own events, each batch those of one install."""
        batches: dict[tuple[object, ...], tuple[Handler, list[_Run]]] = {}
        for item in claimed:
            run = await self._prepare_one(item)
            if run is None:
                continue
            for handler in self._handlers_left(run):
                if handler.batch is None:
                    self._start(self._call_one(handler, run))
                    continue
                group = (item.component, handler.key, item.account, item.install_id, repr(item.settings))
                _, runs = batches.setdefault(group, (handler, []))
                runs.append(run)
        for handler, runs in batches.values():
            size = handler.batch or 1
            for start in range(0, len(runs), size):
                self._start(self._call_batch(handler, runs[start : start + size]))

    async def _prepare_one(self, claimed: ClaimedEvent) -> _Run | None:
        """Return the run of an event, or settle it when there is nothing to call."""
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
            verdict = Verdict("install context", HandlerState.RETRY, type(error).__name__)
            self._start(self._settle(replace(self._conclude(claimed, [verdict]), results=()), claimed))
            return None
        run = _Run(claimed, event, install, calls_left=0)
        run.calls_left = len(self._handlers_left(run))
        if run.calls_left == 0:
            self._start(self._settle(self._conclude(claimed, []), claimed))
            return None
        return run

    def _handlers_left(self, run: _Run) -> list[Handler]:
        done = {result.handler for result in run.claimed.finished}
        wanted = self._components[run.claimed.component].handlers_of(run.event)
        return [handler for handler in wanted if handler.key not in done]

    async def _call_one(self, handler: Handler, run: _Run) -> None:
        async def call() -> None:
            await handler.call(run.event, run.install, run.claimed.settings)

        started = self._observer.clock()
        _, error = await self._guarded(handler, run.claimed.component, call)
        await self._record(run, judge(handler.key, error), started)

    async def _call_batch(self, handler: Handler, runs: Sequence[_Run]) -> None:
        events = [run.event for run in runs]

        async def call() -> object:
            return await handler.call_batch(events, runs[0].install, runs[0].claimed.settings)

        started = self._observer.clock()
        answer, error = await self._guarded(handler, runs[0].claimed.component, call)
        errors = batch_errors(answer, events) if error is None else [error] * len(runs)
        await asyncio.gather(
            *(
                self._record(run, judge(handler.key, failure), started)
                for run, failure in zip(runs, errors, strict=True)
            )
        )

    async def _guarded(
        self, handler: Handler, component: str, call: Callable[[], Coroutine[Any, Any, object]]
    ) -> tuple[object, BaseException | None]:
        """Call a handler in its turn and within its time; whatever it raises is an answer, never our end."""
        async with self._turns[f"{component}/{handler.key}"]:
            try:
                async with asyncio.timeout(self._limits.handler_seconds):
                    return await call(), None
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                return None, RuntimeError(f"the handler was cancelled from inside: {error}")
            except HandlerError as error:
                return None, error
            except Exception as error:
                logger.warning("Handler %s of component %s failed", handler.key, component, exc_info=error)
                return None, error

    async def _record(self, run: _Run, verdict: Verdict, started: float) -> None:
        self._observer.handled(verdict.handler, run.claimed, run.event, verdict.state, started=started)
        run.verdicts.append(verdict)
        run.calls_left -= 1
        if run.calls_left == 0:
            await self._settle(self._conclude(run.claimed, run.verdicts), run.claimed)

    def _conclude(self, claimed: ClaimedEvent, verdicts: Sequence[Verdict]) -> Settlement:
        return conclude(claimed, verdicts, policy=self._policy, now=self._clock(), jitter=self._jitter())

    async def _settle(self, settlement: Settlement, claimed: ClaimedEvent) -> None:
        if settlement.state is EventState.DEAD_LETTER:
            logger.warning("Event %d is a dead letter: %s", claimed.id, settlement.error)
        try:
            if claimed.type == "delete" and settlement.state is EventState.HANDLED:
                await self._erase(settlement, claimed)
            elif not await self._log.settle(settlement):
                logger.warning("Event %d was taken over by somebody else; this attempt is not recorded", claimed.id)
                return
            self._observer.settled(claimed, settlement.state)
        except Exception as error:  # the lease will end, and the event is handled again
            logger.warning("The result of event %d could not be stored (%s)", claimed.id, type(error).__name__)
        finally:
            self._leases.drop(claimed)

    async def _erase(self, settlement: Settlement, claimed: ClaimedEvent) -> None:
        """Note a finished deletion, then wipe the log. The note comes first: once too often is better than never."""
        async with self._database.transaction() as session:
            await audit.add(
                session,
                actor="segment",
                action="person.erase",
                subject=f"event {claimed.id}",
                now=settlement.at,
                detail={"account": claimed.account, "component": claimed.component},
            )
        report = await self._log.erase(settlement)
        if report is not None:
            logger.info(
                "Deletion %d is done: %d merged ids, %d stored events wiped",
                claimed.id,
                report.merged_ids,
                report.events,
            )
