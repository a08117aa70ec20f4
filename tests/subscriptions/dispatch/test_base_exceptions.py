"""WH-21: no exception of a handler, and no bug of the dispatcher, keeps a slot or an event."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import Any

import pytest

from enable_with_segment import Event, InstallContext, Subscription
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from enable_with_segment.subscriptions.dispatch.limits import DispatchLimits
from enable_with_segment.subscriptions.observer import Observer
from tests.subscriptions.receiver import Open, Receiver


class Panic(BaseException):
    """What an extension module written in Rust raises when it panics: no ``Exception``."""


POISON = [
    Panic("a panic in an extension module"),
    GeneratorExit(),
    KeyboardInterrupt(),
    SystemExit(3),
    asyncio.CancelledError("from inside"),
    BaseExceptionGroup("several", [Panic("one"), ValueError("two")]),
]


def track(number: int, **changes: Any) -> dict[str, Any]:
    return {"type": "track", "event": "A", "userId": "u", "messageId": f"m-{number}", **changes}


def dispatcher_of(receiver: Receiver, subscription: Subscription, **options: Any) -> Dispatcher:
    limits = DispatchLimits(calls_per_handler=4, **options.pop("limits", {}))
    return Dispatcher(
        {"acme-crm": subscription}, receiver.log, receiver.database, limits=limits, clock=receiver.clock, **options
    )


@pytest.mark.parametrize("batch", [None, 10])
@pytest.mark.parametrize("poison", POISON, ids=lambda error: type(error).__name__)
async def test_wh_21_whatever_a_handler_raises_is_a_failed_attempt_and_frees_its_slot(
    receiver: Receiver, poison: BaseException, batch: int | None
) -> None:
    subscription = Subscription("acme-crm")
    handled: list[str | None] = []

    async def one(event: Event) -> None:
        if event.properties.get("poison"):
            raise type(poison)(*poison.args)
        handled.append(event.message_id)

    async def many(events: list[Event]) -> None:
        for event in events:
            await one(event)

    subscription.on("track", batch=batch)(many if batch else one)
    for number in range(12):
        await receiver.deliver(track(number, properties={"poison": True}))
    dispatcher = dispatcher_of(receiver, subscription)
    await dispatcher.run_due()
    (queue,) = dispatcher._handler_queues._handler_queues.values()
    assert (queue._calls, dict(queue._running), dispatcher._leases.count, dispatcher._held) == ({}, {}, 0, Counter())
    # Events behind an open circuit were deferred; every event that was called has an attempt and a reason.
    attempts = [record.attempts for record in await receiver.records()]
    assert any(attempts)
    await receiver.deliver(track(99), key=await receiver.mint("acct_other"))
    await dispatcher.run_due()
    assert "m-99" in handled


async def test_wh_21_a_bug_of_the_dispatcher_frees_slot_and_event(receiver: Receiver) -> None:
    subscription, handled = Subscription("acme-crm"), list[str | None]()

    @subscription.on("track")
    async def store(event: Event) -> None:
        handled.append(event.message_id)

    class Broken(Observer):
        """Fails for the first events, as a bug in metrics or traces would."""

        failures = 6

        def handled(self, *arguments: Any, **named: Any) -> None:  # noqa: ARG002
            self.failures -= 1
            if self.failures >= 0:
                raise ZeroDivisionError

    for number in range(6):
        await receiver.deliver(track(number))
    dispatcher = dispatcher_of(receiver, subscription, observer=Broken())
    for _ in range(3):
        await dispatcher.run_due()
        receiver.clock.advance(minutes=5)  # what a failed task held is claimed again when its lease ends
    (queue,) = dispatcher._handler_queues._handler_queues.values()
    assert (queue._calls, dict(queue._running)) == ({}, {})
    assert {record.state for record in await receiver.records()} == {EventState.HANDLED}


async def test_wh_21_a_handler_that_hangs_for_one_sender_leaves_slots_to_the_others(receiver: Receiver) -> None:
    subscription, handled = Subscription("acme-crm"), list[str | None]()

    @subscription.on("track")
    async def store(event: Event, install: InstallContext) -> None:
        if install.account == "acct_hangs":
            await asyncio.Event().wait()
        handled.append(event.message_id)

    hanging = await receiver.mint("acct_hangs")
    for number in range(40):
        await receiver.deliver(track(number), key=hanging)
    for number in range(40, 80):
        await receiver.deliver(track(number))
    dispatcher = dispatcher_of(receiver, subscription)
    running = asyncio.create_task(dispatcher.run())
    try:
        async with asyncio.timeout(30):
            while len(handled) < 40:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert set(handled) == {f"m-{number}" for number in range(40, 80)}


async def test_a_handler_that_is_cancelled_from_inside_has_failed_like_any_other(opened: Open) -> None:
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def cancelled(event: Event) -> None:
        raise asyncio.CancelledError("by a library")

    async with opened(subscription) as receiver:
        await receiver.deliver(track(1))
        await receiver.dispatcher.run_due()
        record = await receiver.only()
        assert record.state is EventState.PENDING
        assert record.last_error is not None
        assert "cancelled from inside" in record.last_error


async def test_a_handler_that_wants_to_end_the_process_has_failed_like_any_other(opened: Open) -> None:
    subscription, kept = Subscription("acme-crm"), list[str | None]()

    @subscription.on("track")
    async def leave(event: Event) -> None:
        sys.exit("no configuration")

    @subscription.on("track")
    async def keep(event: Event) -> None:
        kept.append(event.message_id)

    async with opened(subscription) as receiver:
        await receiver.deliver(track(1))
        await receiver.dispatcher.run_due()
        record = await receiver.only()
        assert (record.state, kept) == (EventState.PENDING, ["m-1"])
        assert "sys.exit('no configuration')" in (record.last_error or "")
