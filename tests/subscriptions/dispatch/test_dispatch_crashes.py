"""The whole machine of leases, retries and dedupe, with a crash at any of its awaits.

Every call of the event log and of a handler is a place where the process may die: before it, after it, or in the
middle of a handler. What the process knew is lost with it, what was committed is not. A ledger beside the machine
says what has to be true: nothing acknowledged is lost, a handler that succeeded and whose result was stored is never
called again, and nobody's result counts whose lease has passed on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from enable_with_segment import Event, InvalidEventPayload, Subscription
from enable_with_segment.db.backoff import RetryPolicy
from enable_with_segment.db.event_log.log import EventLog
from enable_with_segment.db.event_log.records import Appended, EventFilter, EventLogUnavailable, NewEvent, Settlement
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from enable_with_segment.subscriptions.dispatch.limits import DispatchLimits
from tests.db.event_log.events import new_event, settle
from tests.subscriptions.crash_stores import PostgresStores, SqliteStores, StoresMachine, crash_settings
from tests.subscriptions.mortal_log import Life, mortal_log

HANDLERS = ("steady", "shaky", "in_order")


@pytest.fixture(scope="module", autouse=True)
def _templates(sqlite_template: Path, postgres_socket: str, postgres_template: str) -> None:
    CrashMachine.new_stores = lambda: SqliteStores(sqlite_template)
    PostgresCrashMachine.new_stores = lambda: PostgresStores(postgres_socket, postgres_template)


class CrashMachine(StoresMachine):
    """Deliveries, dispatchers that live or die, frozen workers and the clock, in any order."""

    @initialize()
    def open(self) -> None:
        self.open_stores()
        self.acknowledged: dict[str, int] = {}
        self.seen: Counter[tuple[str, str]] = Counter()
        self.recorded: set[tuple[str, str]] = set()
        self.order: dict[str, list[int]] = {}
        self.failures: dict[str, int] = {}
        self.life = Life()

    def _subscription(self) -> Subscription:
        subscription = Subscription("acme-crm")

        async def called(name: str, event: Event) -> str:
            message_id = event.message_id or ""
            if (message_id, name) in self.recorded:
                self.wrong.append(f"{name} was called again for {message_id} after its success was stored")
            self.life.step()
            self.seen[message_id, name] += 1
            self.life.step()
            return message_id

        @subscription.on("track")
        async def steady(event: Event) -> None:
            await called("steady", event)

        @subscription.on("track")
        async def shaky(event: Event) -> None:
            message_id = await called("shaky", event)
            if self.failures.get(message_id, 0) > 0:
                self.failures[message_id] -= 1
                raise ConnectionError("away")
            if self.failures.get(message_id, 0) < 0:
                raise InvalidEventPayload("unusable")

        @subscription.on("track", ordered=True)
        async def in_order(event: Event) -> None:
            message_id = await called("in_order", event)
            line = self.order.setdefault(event.user_id or "", [])
            if line and line[-1] > self.acknowledged[message_id]:
                self.wrong.append(f"{message_id} came after a later event of the same person")
            line.append(self.acknowledged[message_id])

        return subscription

    @rule(number=st.integers(0, 11), sender=st.integers(0, 1), dies=st.none() | st.integers(0, 1), short=st.booleans())
    def deliver(self, number: int, sender: int, dies: int | None, short: bool) -> None:
        """Receive a message, perhaps not for the first time, perhaps dying before or after the commit.

        It comes as a request or, ``short``, without a task that waits for it.
        """
        message_id = f"{sender}-{number}"
        body = f'{{"type":"track","event":"Step","userId":"u-{sender}-{number % 2}","messageId":"{message_id}"}}'
        event = new_event(
            message_id,
            scope=f"install:{sender}",
            received_at=self.now,
            type="track",
            event="Step",
            person_hash=f"u-{sender}-{number % 2}",
            body=body.encode(),
        )
        process = mortal_log(self.log, Life(dies))
        try:
            appended = self.runner.run(self._append(process, event, short=short))
        except EventLogUnavailable:
            self._restart()
            if message_id not in self.acknowledged:  # not acknowledged, though it may have been stored
                self._learn(message_id)
            return
        if appended.event_id is not None:
            assert message_id not in self.acknowledged, "stored twice"
            self.acknowledged[message_id] = appended.event_id
        assert message_id in self.acknowledged

    async def _append(self, process: EventLog, event: NewEvent, *, short: bool) -> Appended:
        if not short:
            return await process.append(event)
        waiter: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        process.append_for(waiter, event)
        return await waiter

    @rule(number=st.integers(0, 11), sender=st.integers(0, 1), failures=st.integers(-1, 3))
    def arrange(self, number: int, sender: int, failures: int) -> None:
        """Let a handler fail for a message some times, or refuse it for good."""
        self.failures[f"{sender}-{number}"] = failures

    @rule(dies=st.none() | st.integers(0, 60))
    def dispatch(self, dies: int | None) -> None:
        """Run a dispatcher until nothing is due, or until it dies."""
        self.life = Life(dies)
        limits = DispatchLimits(calls_per_handler=2, events_in_flight=8, queue_seconds=60, lease_seconds=15)
        dispatcher = Dispatcher(
            {"acme-crm": self._subscription()},
            mortal_log(self.log, self.life),
            self.database,
            policy=RetryPolicy(attempts=6),
            limits=limits,
            clock=lambda: self.now,
            jitter=lambda: 1.0,
        )
        self.runner.run(self._run(dispatcher, self.life))
        if self.life.died.is_set():
            self._restart()
        self._take_note()

    async def _run(self, dispatcher: Dispatcher, life: Life) -> None:
        working = asyncio.create_task(dispatcher.run_due())
        dying = asyncio.create_task(life.died.wait())
        await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, dying):
            task.cancel()
        with suppress(asyncio.CancelledError, EventLogUnavailable):
            await working

    @rule()
    def freeze(self) -> None:
        """Claim as a worker that is then frozen for a while."""
        until = self.now + timedelta(seconds=15)
        lease = self.new_frozen_lease()
        claim = self.log.claim(["acme-crm"], limit=2, lease=lease, now=self.now, until=until)
        self.frozen += self.runner.run(claim)

    @precondition(lambda self: self.frozen)
    @rule()
    def thaw(self) -> None:
        """Let the oldest frozen worker say that all went well; that counts only while nobody else took over."""
        claimed = self.frozen.pop(0)
        before = self._record(claimed.id)
        settlement = Settlement(claimed.id, claimed.lease, EventState.PENDING, self.now, available_at=self.now)
        accepted = self.runner.run(settle(self.log, settlement))
        after = self._record(claimed.id)
        if accepted:
            assert before.state is EventState.PENDING
            assert after.attempts == before.attempts + 1
        else:
            assert after == before

    @rule(seconds=st.integers(0, 200))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        if not hasattr(self, "log"):
            return
        assert self.wrong == []
        proof = self.runner.run(self.log.prove(list(self.acknowledged)))
        assert proof.missing == ()

    def teardown(self) -> None:
        """Mend everything, let time pass, and look whether every message found its end."""
        if not hasattr(self, "log"):
            return
        self.failures = {message_id: min(count, 0) for message_id, count in self.failures.items()}
        for _ in range(60):
            self.now += timedelta(minutes=31)
            self.dispatch(None)
            if not self.runner.run(self.log.find(EventFilter(state=EventState.PENDING))):
                break
        self.nothing_acknowledged_is_lost()
        for message_id in self.acknowledged:
            (detail,) = self.runner.run(self.log.show(message_id))
            assert detail.record.state in (EventState.HANDLED, EventState.DEAD_LETTER)
            for outcome in detail.handlers:
                name = outcome.handler.partition(" ")[0]
                if outcome.state is HandlerState.DONE:
                    assert self.seen[message_id, name] >= 1, "said to be done and never called"
        self.runner.run(self._close())
        self.runner.close()

    async def _close(self) -> None:
        await self.log.close()
        await self.database.close()
        await self.stores.remove()

    def _record(self, event_id: int) -> Any:
        (record,) = self.runner.run(self.log.tail(event_id - 1, EventFilter(), limit=1))
        return record

    def _learn(self, message_id: str) -> None:
        """Note the id of a message that was stored, though the answer never came."""
        for detail in self.runner.run(self.log.show(message_id)):
            self.acknowledged[message_id] = detail.record.id

    def _restart(self) -> None:
        """Come back as a new process: memory is gone, files are as they were committed."""
        self.runner.run(self.log.close())
        self.log = self.stores.open_log()

    def _take_note(self) -> None:
        """Remember which successes the log has on record; those handlers must not be called again."""
        for message_id in self.acknowledged:
            for detail in self.runner.run(self.log.show(message_id)):
                for outcome in detail.handlers:
                    if outcome.state is HandlerState.DONE:
                        self.recorded.add((message_id, outcome.handler.partition(" ")[0]))


class PostgresCrashMachine(CrashMachine):
    """The same over PostgreSQL, where leases are rows and outlive the process that held them."""


TestCrashes = CrashMachine.TestCase
TestCrashes.settings = crash_settings(25, steps=25)
TestPostgresCrashes = PostgresCrashMachine.TestCase
TestPostgresCrashes.settings = crash_settings(5, steps=20)
