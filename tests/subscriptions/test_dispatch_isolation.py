"""A handler that hangs or fails, and a sender with too much to say, hold up nobody else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from db.control import pauses
from db.encryption import EncryptionKeys
from db.event_log.records import HandlerRecord
from db.event_log.tables import EventState, HandlerState
from subscriptions import Event, InstallContext, InvalidEventPayload, RetryError, Subscription
from subscriptions.dispatch.circuit import CircuitPolicy
from subscriptions.dispatch.dispatcher import Dispatcher
from subscriptions.dispatch.limits import DispatchLimits
from tests.subscriptions.receiver import Receiver, open_receiver

Open = Callable[..., Any]
BUSY = "busy with earlier events"


@pytest.fixture
def opened(tmp_path: Path, encryption: EncryptionKeys) -> Open:
    """Open a service over fresh SQLite stores."""

    @asynccontextmanager
    async def open_(subscription: Subscription, **limits: Any) -> AsyncIterator[Receiver]:
        url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
        async with open_receiver(url, encryption, subscription, dispatch_limits=DispatchLimits(**limits)) as receiver:
            yield receiver

    return open_


async def send(receiver: Receiver, count: int, prefix: str, *, key: str | None = None, **changes: Any) -> None:
    for number in range(count):
        payload = {"type": "track", "userId": "u-1", "event": "Signed Up", "messageId": f"{prefix}-{number}"}
        assert (await receiver.deliver({**payload, **changes}, key=key)).status_code == 202


async def until(condition: Callable[[], bool]) -> None:
    """Let everything run that can, until a condition holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  what is waited for is a handler's doing
            await asyncio.sleep(0)


async def outcome(receiver: Receiver, message_id: str, handler: str) -> HandlerRecord:
    (detail,) = await receiver.log.show(message_id)
    return next(record for record in detail.handlers if record.handler.startswith(handler))


async def stop(running: asyncio.Task[None]) -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_hanging_handler_keeps_neither_other_handlers_nor_the_same_events_from_being_handled(
    opened: Open,
) -> None:
    subscription, seen = Subscription("acme-crm"), Counter[str]()
    asked = 0

    @subscription.on("track")
    async def hang(event: Event) -> None:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()

    @subscription.on("track")
    async def quick(event: Event) -> None:
        seen["track"] += 1

    @subscription.on("identify")
    async def other(event: Event) -> None:
        seen["identify"] += 1

    limits = {
        "calls_per_handler": 2,
        "events_in_flight": 20,
        "lane_seconds": 0.05,
        "poll_seconds": 0.01,
        "lease_seconds": 1e6,
    }
    async with opened(subscription, **limits) as receiver:
        await send(receiver, 60, "t")
        running = asyncio.create_task(receiver.dispatcher.run())

        def all_seen() -> bool:
            receiver.clock.advance(seconds=1)  # so that what was put back is due again
            return seen["track"] == 60

        await until(all_seen)  # three times what the dispatcher can hold
        await receiver.deliver({"type": "identify", "userId": "u", "messageId": "i"})
        receiver.dispatcher.wake()
        await until(lambda: seen["identify"] == 1)
        assert asked == 1  # the other place is kept for other senders
        waiting = [r for r in await receiver.records(state=EventState.PENDING) if BUSY in (r.last_error or "")]
        assert len(waiting) >= 50
        assert {record.attempts for record in waiting} == {1}
        assert (await outcome(receiver, "t-59", "quick")).state is HandlerState.DONE
        await stop(running)
        assert seen["track"] == 60  # and never a second time


async def test_an_event_that_was_put_back_reaches_the_handler_when_it_works_again(opened: Open) -> None:
    subscription, seen = Subscription("acme-crm"), set[str | None]()
    gate = asyncio.Event()

    @subscription.on("track")
    async def slow(event: Event) -> None:
        await gate.wait()
        seen.add(event.message_id)

    limits = {"calls_per_handler": 1, "events_in_flight": 10, "lane_seconds": 0.0, "poll_seconds": 0.01}
    async with opened(subscription, **limits) as receiver:
        await send(receiver, 30, "t")
        working = asyncio.create_task(receiver.dispatcher.run_due())
        await until(lambda: bool(receiver.dispatcher._tasks))
        gate.set()
        await working
        for _ in range(40):
            receiver.clock.advance(minutes=2)
            await receiver.dispatcher.run_due()
        assert len(seen) == 30
        assert {record.state for record in await receiver.records()} == {EventState.HANDLED}


async def test_a_handler_that_fails_for_one_sender_is_left_alone_for_that_sender_only(opened: Open) -> None:
    subscription, calls = Subscription("acme-crm"), Counter[str]()
    broken = True

    @subscription.on("track")
    async def store(event: Event, install: InstallContext) -> None:
        calls[install.account] += 1
        if broken and install.account == "globex":
            raise ConnectionError("wrong password")

    @subscription.on("identify")
    async def other(event: Event, install: InstallContext) -> None:
        calls[f"identify of {install.account}"] += 1

    circuit = CircuitPolicy(failures=3, first=timedelta(seconds=60))
    async with opened(subscription, calls_per_handler=2, circuit=circuit) as receiver:
        globex = await receiver.mint("globex")
        await send(receiver, 10, "g", key=globex)
        await send(receiver, 10, "a")
        await receiver.dispatcher.run_due()
        assert calls["acme"] == 10
        assert 3 <= calls["globex"] <= 4  # two at a time, until three failed
        failures = calls["globex"]
        await send(receiver, 5, "g-later", key=globex)
        await receiver.deliver({"type": "identify", "userId": "u", "messageId": "i"}, key=globex)
        await receiver.dispatcher.run_due()
        assert (calls["globex"], calls["identify of globex"]) == (failures, 1)
        attempts = {record.attempts for record in await receiver.records(account="globex", type="track")}
        assert attempts == {0, 1}  # what was never called counts no attempt
        receiver.clock.advance(seconds=90)
        await receiver.dispatcher.run_due()
        assert calls["globex"] == failures + 1  # one probe
        broken = False
        for _ in range(4):
            receiver.clock.advance(minutes=3)
            await receiver.dispatcher.run_due()
        assert {record.state for record in await receiver.records()} == {EventState.HANDLED}


async def test_wh_14_a_noisy_sender_delays_another_by_no_more_than_a_turn(opened: Open) -> None:
    subscription, order = Subscription("acme-crm"), list[str]()

    @subscription.on("track")
    async def store(event: Event, install: InstallContext) -> None:
        order.append(install.account)
        await asyncio.sleep(0)

    async with opened(subscription, calls_per_handler=4, events_in_flight=40, lane_seconds=60) as receiver:
        quiet = await receiver.mint("quiet")
        await send(receiver, 300, "noisy")
        await send(receiver, 10, "q", key=quiet)
        await receiver.dispatcher.run_due()
        assert Counter(order) == {"acme": 300, "quiet": 10}
        assert max(position for position, account in enumerate(order) if account == "quiet") < 40


async def test_the_hanging_calls_of_one_sender_leave_places_for_the_others(opened: Open) -> None:
    subscription, served = Subscription("acme-crm"), set[str]()

    @subscription.on("track")
    async def store(event: Event, install: InstallContext) -> None:
        if install.account == "acme":
            await asyncio.Event().wait()
        served.add(install.account)

    async with opened(subscription, calls_per_handler=8, events_in_flight=100, poll_seconds=0.01) as receiver:
        await send(receiver, 30, "hangs")
        running = asyncio.create_task(receiver.dispatcher.run())
        await until(lambda: len(receiver.dispatcher._tasks) >= 4)
        for account in ("red", "green", "blue"):
            await send(receiver, 2, account, key=await receiver.mint(account))
        receiver.dispatcher.wake()
        await until(lambda: served == {"red", "green", "blue"})
        await stop(running)


async def test_events_of_a_person_come_in_order_one_at_a_time_and_wait_for_one_that_fails(opened: Open) -> None:
    subscription = Subscription("acme-crm")
    seen: list[str | None] = []
    free = Counter[str]()
    running: set[str | None] = set()
    failures = 2

    @subscription.on("track", ordered=True)
    async def in_order(event: Event) -> None:
        nonlocal failures
        assert event.user_id not in running
        running.add(event.user_id)
        await asyncio.sleep(0)
        running.discard(event.user_id)
        if event.message_id == "u-1-1" and failures:
            failures -= 1
            raise RetryError("not yet", retry_after=30)
        seen.append(event.message_id)

    @subscription.on("track")
    async def any_order(event: Event) -> None:
        free["calls"] += 1

    async with opened(subscription, calls_per_handler=8) as receiver:
        for number in range(5):
            for user in ("u-1", "u-2"):
                payload = {"type": "track", "userId": user, "event": "Step", "messageId": f"{user}-{number}"}
                await receiver.deliver(payload)
        await receiver.dispatcher.run_due()
        assert seen.count("u-1-0") == 1
        assert [message for message in seen if message and message.startswith("u-2")] == [
            f"u-2-{number}" for number in range(5)
        ]
        assert len(seen) == 6
        assert free["calls"] == 10
        await receiver.deliver({"type": "track", "userId": "u-1", "event": "Step", "messageId": "u-1-5"})
        for _ in range(60):  # one after the other, each waits for up to two minutes
            receiver.clock.advance(seconds=20)
            # A dispatcher that knows nothing of earlier ones keeps the order as well.
            dispatcher = Dispatcher({"acme-crm": subscription}, receiver.log, receiver.database, clock=receiver.clock)
            await dispatcher.run_due()
        assert [message for message in seen if message and message.startswith("u-1")] == [
            f"u-1-{number}" for number in range(6)
        ]
        assert {record.state for record in await receiver.records()} == {EventState.HANDLED}


async def test_what_is_given_up_lets_the_persons_later_events_go_on(opened: Open) -> None:
    subscription, seen = Subscription("acme-crm"), list[str | None]()

    @subscription.on("track", ordered=True)
    async def in_order(event: Event) -> None:
        if event.message_id == "t-0":
            raise InvalidEventPayload("unusable")
        seen.append(event.message_id)

    async with opened(subscription) as receiver:
        await send(receiver, 3, "t")
        await receiver.dispatcher.run_due()
        assert seen == ["t-1", "t-2"]


async def test_a_paused_handler_gets_nothing_until_it_is_resumed(opened: Open) -> None:
    subscription, calls = Subscription("acme-crm"), Counter[str]()

    @subscription.on("track")
    async def paused(event: Event) -> None:
        calls["paused"] += 1

    @subscription.on("track")
    async def runs(event: Event) -> None:
        calls["runs"] += 1

    async with opened(subscription) as receiver:
        now = receiver.clock()
        async with receiver.database.transaction() as session:
            assert await pauses.add(session, component="acme-crm", handler="paused", actor="test", now=now)
            assert not await pauses.add(session, component="acme-crm", handler="paused", actor="test", now=now)
        await send(receiver, 3, "t")
        await receiver.dispatcher.run_due()
        assert calls == {"runs": 3}
        record = (await receiver.records())[0]
        assert (record.state, record.last_error) == (EventState.PENDING, "paused (track): paused")
        async with receiver.database.transaction() as session:
            assert await pauses.remove(session, component="acme-crm", handler="paused")
            assert not await pauses.remove(session, component="acme-crm", handler="paused")
        receiver.clock.advance(seconds=1)
        await receiver.log.hasten("acme-crm", now=receiver.clock())
        await receiver.dispatcher.run_due()
        assert calls == {"runs": 3, "paused": 3}


async def test_a_paused_component_gets_nothing_at_all(opened: Open) -> None:
    subscription, calls = Subscription("acme-crm"), Counter[str]()

    @subscription.on("track")
    async def handle(event: Event) -> None:
        calls["handle"] += 1

    async with opened(subscription) as receiver:
        async with receiver.database.transaction() as session:
            await pauses.add(session, component="acme-crm", handler=None, actor="test", now=receiver.clock())
        await send(receiver, 2, "t")
        assert await receiver.dispatcher.run_due() == 0
        async with receiver.database.transaction() as session:
            await pauses.remove(session, component="acme-crm", handler=None)
        assert await receiver.dispatcher.run_due() == 0  # known for another second
        receiver.clock.advance(seconds=1)
        assert await receiver.dispatcher.run_due() == 2


async def test_nothing_is_handed_out_while_nobody_knows_what_is_paused(opened: Open) -> None:
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def handle(event: Event) -> None: ...

    async with opened(subscription) as receiver:

        async def rename(old: str, new: str) -> None:
            async with receiver.database.engine.begin() as connection:
                await connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

        await send(receiver, 1, "t")
        await rename("pauses", "elsewhere")
        assert await receiver.dispatcher.run_due() == 0
        await rename("elsewhere", "pauses")
        assert await receiver.dispatcher.run_due() == 1
        await rename("pauses", "elsewhere")  # from here on it goes by what it knows
        await send(receiver, 1, "later")
        receiver.clock.advance(seconds=2)
        assert await receiver.dispatcher.run_due() == 1


async def test_an_attempt_without_a_result_is_on_record_and_a_fatal_event_is_given_up(opened: Open) -> None:
    subscription, calls = Subscription("acme-crm"), Counter[str | None]()

    @subscription.on("track")
    async def handle(event: Event) -> None:
        calls[event.message_id] += 1

    async with opened(subscription) as receiver:
        await send(receiver, 1, "t")

        async def die() -> None:
            """Claim as a process that is never heard of again."""
            now = receiver.clock()
            assert await receiver.log.claim(
                ["acme-crm"], limit=1, lease=f"dead at {now}", now=now, until=now + timedelta(seconds=15)
            )
            receiver.clock.advance(seconds=15)

        await die()
        dispatcher = Dispatcher({"acme-crm": subscription}, receiver.log, receiver.database, clock=receiver.clock)
        claimed = await dispatcher._claim_and_start()
        await dispatcher._finish()
        assert (claimed, calls["t-0"]) == (1, 0)
        unknown = await outcome(receiver, "t-0", "handle")
        assert (unknown.state, unknown.attempts) == (HandlerState.UNKNOWN, 1)
        for _ in range(19):
            receiver.clock.advance(minutes=30)
            await die()
            await dispatcher._claim_and_start()
            await dispatcher._finish()
        record = await receiver.only()
        assert record.state is EventState.DEAD_LETTER
        assert "nobody knows its effect (given up after 20 attempts)" in (record.last_error or "")
        assert calls["t-0"] == 0


async def test_another_handlers_wait_is_respected_when_an_event_comes_back_early(opened: Open) -> None:
    subscription, calls = Subscription("acme-crm"), Counter[str]()

    @subscription.on("track")
    async def asks_for_time(event: Event) -> None:
        calls["asks"] += 1
        raise RetryError("429", retry_after=600)

    @subscription.on("track")
    async def fails_once(event: Event) -> None:
        calls["fails"] += 1
        if calls["fails"] == 1:
            raise ConnectionError

    async with opened(subscription) as receiver:
        await send(receiver, 1, "t")
        await receiver.dispatcher.run_due()
        receiver.clock.advance(seconds=2)
        await receiver.dispatcher.run_due()
        assert calls == {"asks": 1, "fails": 2}
        assert (await receiver.only()).available_at == receiver.clock() + timedelta(seconds=598)
        receiver.clock.advance(seconds=598)
        await receiver.dispatcher.run_due()
        assert calls == {"asks": 2, "fails": 2}
