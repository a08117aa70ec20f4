"""Deletions, merges and batches in the machine of leases and retries, with a crash at any of its steps.

A step is each call of the event log, each part of a transaction of the control store, each moment of a handler, and on
SQLite each write to another file. A ledger beside the machine says what was sent, and a partner's product what handlers
were told. From both follows what has to be true.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from enable_with_segment import Event
from enable_with_segment.db.event_log.records import Appended, EventFilter, EventLogUnavailable, Settlement
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from enable_with_segment.subscriptions.dispatch.limits import DispatchLimits
from tests.db.event_log.events import settle
from tests.subscriptions.crash_stores import PostgresStores, SqliteStores, StoresMachine, crash_settings
from tests.subscriptions.ledger import Ledger, Message
from tests.subscriptions.mortal_database import MortalDatabase
from tests.subscriptions.mortal_disk import MortalDisk
from tests.subscriptions.mortal_log import Life, mortal_log
from tests.subscriptions.partner import Partner
from tests.subscriptions.witness import Outcomes, Witness

_PEOPLE = ("ann", "bob", "lead")
_LIMITS = DispatchLimits(calls_per_handler=2, events_in_flight=8, queue_seconds=60, lease_seconds=15)


@pytest.fixture(scope="module", autouse=True)
def _stores(sqlite_template: Path, postgres_socket: str, postgres_template: str) -> Iterator[None]:
    disk = MortalDisk()
    ErasureMachine.new_stores = lambda: SqliteStores(sqlite_template, disk)
    PostgresErasureMachine.new_stores = lambda: PostgresStores(postgres_socket, postgres_template)
    yield
    disk.unregister()


class Draft(NamedTuple):
    """A message before it is sent: whose it is, how old, how handlers answer for it, and how slow they are."""

    kind: str
    person: str | None
    device: str | None
    previous: str | None
    age: int
    plan: list[str]
    slowness: int


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    kind = draw(st.sampled_from(["track", "identify", "track", "identify", "alias", "delete"]))
    person: str | None = draw(st.sampled_from(_PEOPLE))
    device = previous = None
    problems = ["fails", "asks for a wait"]
    match kind:
        case "alias":
            previous = draw(st.sampled_from(_PEOPLE))
        case "delete":
            problems += ["refuses", "does not support it"]
        case _:
            device = draw(st.sampled_from([None, "phone"]))
            if device and draw(st.booleans()):
                person = None
            problems += ["refuses", "does not support it"]
    plan = draw(st.lists(st.sampled_from(problems), max_size=2))
    age = draw(st.sampled_from([0, 0, 20, 100, -20]))
    return Draft(kind, person, device, previous, age, plan, draw(st.integers(0, 12)))


class ErasureMachine(StoresMachine):
    """Deliveries, dispatchers that live or die, frozen workers and the clock, in any order."""

    @initialize()
    def open(self) -> None:
        self.open_stores()
        self.ledger = Ledger()
        self.partner = Partner()
        self.witness = Witness(self.ledger, self.partner)

    @rule(
        group=st.dictionaries(st.integers(0, 11), drafts(), min_size=1, max_size=3),
        dies=st.none() | st.integers(0, 12),
        then_dispatch=st.booleans(),
        then_dies=st.none() | st.integers(0, 80),
    )
    def deliver(self, group: dict[int, Draft], dies: int | None, then_dispatch: bool, then_dies: int | None) -> None:
        """Receive messages at the same moment, perhaps not for the first time, perhaps dying meanwhile."""
        for number, draft in group.items():
            message_id = f"{number % 2}-{number}"
            if message_id not in self.ledger.sent:
                occurred_at = self.now - timedelta(seconds=draft.age)
                self.ledger.sent[message_id] = Message(
                    message_id, draft.kind, draft.person, draft.device, draft.previous, occurred_at, self.now
                )
                self.partner.plans[message_id] = list(draft.plan)
                self.partner.slowness[message_id] = draft.slowness
        self._deliver([self.ledger.sent[f"{number % 2}-{number}"] for number in group], Life(dies))
        if then_dispatch:
            self.dispatch(then_dies)

    def _deliver(self, group: list[Message], life: Life) -> None:
        self.stores.belong_to(life)
        answers = self.runner.run(self._append(group, life))
        for message, answer in zip(group, answers, strict=True):
            if isinstance(answer, BaseException):
                assert isinstance(answer, EventLogUnavailable), answer
                message.unanswered += 1
            elif answer.event_id is not None:
                assert message.event_id is None, "stored twice"
                message.event_id, message.received_at = answer.event_id, self.now
            else:
                assert message.event_id is not None, "said to be there and never stored"
                message.answered_again += 1
        self._outlive(life)
        for message in group:
            if message.event_id is None:  # not acknowledged, though it may have been stored
                for detail in self.runner.run(self.log.show(message.message_id)):
                    message.event_id, message.received_at = detail.record.id, detail.record.received_at
        self.runner.run(self._check())

    async def _append(self, group: list[Message], life: Life) -> list[Appended | BaseException]:
        log = mortal_log(self.log, life)

        async def append(message: Message) -> Appended:
            return await log.append(message.event(self.now))

        return list(await asyncio.gather(*map(append, group), return_exceptions=True))

    @rule(dies=st.none() | st.integers(0, 80))
    def dispatch(self, dies: int | None) -> None:
        """Run a dispatcher until nothing is due, or until it dies."""
        life = Life(dies)
        self.stores.belong_to(life)
        before, calls = self.runner.run(self.witness.outcomes(self.log)), Counter(self.partner.calls)
        database = MortalDatabase(self.database, life)
        dispatcher = Dispatcher(
            {"acme-crm": self.partner.subscription(life, self._look_at)},
            mortal_log(self.log, life),
            database,
            limits=_LIMITS,
            clock=lambda: self.now,
            jitter=lambda: 1.0,
        )
        self.runner.run(self._run(dispatcher, database, life))
        self._outlive(life)
        self.runner.run(self._look_back(before, self.partner.calls - calls, died=life.died.is_set()))

    async def _look_back(self, before: Outcomes, calls: Counter[tuple[str, str]], *, died: bool) -> None:
        self.witness.check_attempts(before, await self.witness.outcomes(self.log), calls, died=died)
        await self.witness.note_finished(self.log)
        await self.witness.check_audit(self.database)
        await self._check()

    async def _run(self, dispatcher: Dispatcher, database: MortalDatabase, life: Life) -> None:
        working = asyncio.create_task(dispatcher.run_due())
        dying = asyncio.create_task(life.died.wait())
        await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
        await database.quiet()
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
        claimed = self.runner.run(claim)
        self.log.begin(lease, [event.id for event in claimed])
        self.witness.interruptions += 1
        self.frozen += claimed

    @rule()
    def thaw(self) -> None:
        """Let the oldest frozen worker do its work late, and give the event back; nobody may have erased that."""
        if not self.frozen:
            return
        claimed = self.frozen.pop(0)
        message = next(one for one in self.ledger.stored() if one.event_id == claimed.id)
        settlement = Settlement(claimed.id, claimed.lease, EventState.PENDING, self.now, available_at=self.now)
        if self.runner.run(settle(self.log, settlement)):
            assert all(other.id != claimed.id for other in self.frozen), "somebody else has taken over"
            self.witness.put_back[message.message_id] += 1
            if message.kind in ("track", "identify") and message.person is not None and not claimed.suppressed:
                self.partner.keep(message.person, message.occurred_at)
        self.runner.run(self._check())

    @rule()
    def retry(self) -> None:
        """Let everything that was given up be tried again."""
        self.runner.run(self._retry())

    async def _retry(self) -> None:
        given_up = await self.log.find(EventFilter(state=EventState.DEAD_LETTER))
        assert await self.log.retry_dead_letters(None, now=self.now) == len(given_up)
        self.witness.note_retried(record.message_id or "" for record in given_up)

    @rule(seconds=st.integers(-60, 200))
    def time_passes(self, seconds: int) -> None:
        """Let the clock go on, or set it back."""
        self.now += timedelta(seconds=seconds)

    def teardown(self) -> None:
        """Send again what was not answered, let time pass, and look whether every message found its end."""
        if not hasattr(self, "log"):
            return
        self._deliver([one for one in self.ledger.sent.values() if one.unanswered], Life())
        for _ in range(40):
            self.now += timedelta(minutes=31)
            self.dispatch(None)
            if not self.runner.run(self.log.find(EventFilter(state=EventState.PENDING))):
                break
        self.runner.run(self.witness.check_end(self.log))
        self.runner.run(self._close())
        self.runner.close()

    async def _close(self) -> None:
        await self.log.close()
        await self.database.close()
        await self.stores.remove()

    def _outlive(self, life: Life) -> None:
        """Go on as a process that does not die; as a new one if it did: memory is gone, files are as they were left."""
        if life.died.is_set():
            self.witness.interruptions += 1
            self.runner.run(self.log.close())
            self.log = self.stores.open_log()
        self.stores.belong_to(Life())

    async def _look_at(self, event: Event) -> None:
        """See that nobody works on an event of somebody whose deletion is finished."""
        await self.witness.note_finished(self.log)
        message = self.ledger.sent[event.message_id or ""]
        if event.type == "delete":
            await self.witness.note_begun(self.log, message, event.timestamp)
        elif self.ledger.is_erased(
            message.subject, message.occurred_at
        ) and not await self.witness.is_told_before_another_delete(self.log, message):
            self.wrong.append(f"{message.message_id} is handled though its person's deletion is finished")

    async def _check(self) -> None:
        assert self.wrong == []
        await self.witness.check_log(self.log)


class PostgresErasureMachine(ErasureMachine):
    """The same over PostgreSQL, where leases outlive the process that held them."""


TestErasureCrashes = ErasureMachine.TestCase
TestErasureCrashes.settings = crash_settings(60, steps=20)
TestPostgresErasureCrashes = PostgresErasureMachine.TestCase
TestPostgresErasureCrashes.settings = crash_settings(10, steps=20)
