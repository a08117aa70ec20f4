"""A handler that hangs or fails, and a sender with too much to say, hold up nobody else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest

from enable_with_segment import Event, InstallContext, RetryError, Subscription
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.subscriptions.dispatch.circuit import CircuitPolicy
from enable_with_segment.subscriptions.dispatch.limits import DispatchLimits
from tests.subscriptions.receiver import Open, outcomes

BUSY = "busy with earlier events"


async def until(condition: Callable[[], bool]) -> None:
    """Let everything run that can, until a condition holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  what is waited for is a handler's doing
            await asyncio.sleep(0)


async def stop(running: asyncio.Task[None]) -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_hanging_handler_keeps_neither_other_handlers_nor_the_same_events_from_being_handled(
    on_sqlite: Open,
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

    limits = DispatchLimits(
        calls_per_handler=2, events_in_flight=20, queue_seconds=0.05, poll_seconds=0.01, lease_seconds=1e6
    )
    async with on_sqlite(subscription, dispatch_limits=limits) as receiver:
        await receiver.deliver_tracks("t", 60)
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
        assert ((await outcomes(receiver, "t-59"))["quick"]).state is HandlerState.DONE
        await stop(running)
        assert seen["track"] == 60  # and never a second time


async def test_an_event_that_was_put_back_reaches_the_handler_when_it_works_again(on_sqlite: Open) -> None:
    subscription, seen = Subscription("acme-crm"), set[str | None]()
    gate = asyncio.Event()

    @subscription.on("track")
    async def slow(event: Event) -> None:
        await gate.wait()
        seen.add(event.message_id)

    limits = DispatchLimits(calls_per_handler=1, events_in_flight=10, queue_seconds=0.0, poll_seconds=0.01)
    async with on_sqlite(subscription, dispatch_limits=limits) as receiver:
        await receiver.deliver_tracks("t", 30)
        working = asyncio.create_task(receiver.dispatcher.run_due())
        await until(lambda: bool(receiver.dispatcher._tasks))
        gate.set()
        await working
        for _ in range(40):
            receiver.clock.advance(minutes=2)
            await receiver.dispatcher.run_due()
        assert len(seen) == 30
        assert {record.state for record in await receiver.records()} == {EventState.HANDLED}


async def test_a_handler_that_fails_for_one_sender_is_left_alone_for_that_sender_only(on_sqlite: Open) -> None:
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
    limits = DispatchLimits(calls_per_handler=2, circuit=circuit)
    async with on_sqlite(subscription, dispatch_limits=limits) as receiver:
        globex = await receiver.mint("globex")
        await receiver.deliver_tracks("g", 10, key=globex)
        await receiver.deliver_tracks("a", 10)
        await receiver.dispatcher.run_due()
        assert calls["acme"] == 10
        assert 3 <= calls["globex"] <= 4  # two at a time, until three failed
        failures = calls["globex"]
        await receiver.deliver_tracks("g-later", 5, key=globex)
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


async def test_wh_14_a_noisy_sender_delays_another_by_no_more_than_a_turn(on_sqlite: Open) -> None:
    subscription, order = Subscription("acme-crm"), list[str]()

    @subscription.on("track")
    async def store(event: Event, install: InstallContext) -> None:
        order.append(install.account)
        await asyncio.sleep(0)

    limits = DispatchLimits(calls_per_handler=4, events_in_flight=40, queue_seconds=60)
    async with on_sqlite(subscription, dispatch_limits=limits) as receiver:
        quiet = await receiver.mint("quiet")
        await receiver.deliver_tracks("noisy", 300)
        await receiver.deliver_tracks("q", 10, key=quiet)
        await receiver.dispatcher.run_due()
        assert Counter(order) == {"acme": 300, "quiet": 10}
        assert max(position for position, account in enumerate(order) if account == "quiet") < 40


async def test_the_hanging_calls_of_one_sender_leave_places_for_the_others(on_sqlite: Open) -> None:
    subscription, served = Subscription("acme-crm"), set[str]()

    @subscription.on("track")
    async def store(event: Event, install: InstallContext) -> None:
        if install.account == "acme":
            await asyncio.Event().wait()
        served.add(install.account)

    limits = DispatchLimits(calls_per_handler=8, events_in_flight=100, poll_seconds=0.01)
    async with on_sqlite(subscription, dispatch_limits=limits) as receiver:
        await receiver.deliver_tracks("hangs", 30)
        running = asyncio.create_task(receiver.dispatcher.run())
        await until(lambda: len(receiver.dispatcher._tasks) >= 4)
        for account in ("red", "green", "blue"):
            await receiver.deliver_tracks(account, 2, key=await receiver.mint(account))
        receiver.dispatcher.wake()
        await until(lambda: served == {"red", "green", "blue"})
        await stop(running)


async def test_another_handlers_wait_is_respected_when_an_event_comes_back_early(on_sqlite: Open) -> None:
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

    async with on_sqlite(subscription) as receiver:
        await receiver.deliver_tracks("t", 1)
        await receiver.dispatcher.run_due()
        receiver.clock.advance(seconds=2)
        await receiver.dispatcher.run_due()
        assert calls == {"asks": 1, "fails": 2}
        assert (await receiver.only()).available_at == receiver.clock() + timedelta(seconds=598)
        receiver.clock.advance(seconds=598)
        await receiver.dispatcher.run_due()
        assert calls == {"asks": 2, "fails": 2}
