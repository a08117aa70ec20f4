"""A wall clock that is set back delays no event until it catches up."""

from __future__ import annotations

from datetime import timedelta

from enable_with_segment import Event, RetryError, Subscription
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from tests.db.event_log.events import new_event
from tests.subscriptions.flaky_log import FlakyLog
from tests.subscriptions.receiver import Open, Receiver, track


def _subscription(calls: list[str | None]) -> Subscription:
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def take(event: Event) -> None:
        calls.append(event.message_id)

    return subscription


async def test_what_was_received_before_the_clock_was_set_back_is_handled_after(opened: Open) -> None:
    calls: list[str | None] = []
    async with opened(_subscription(calls)) as receiver:
        receiver.clock.advance(hours=1)
        assert await receiver.dispatcher.run_due() == 0
        await receiver.deliver(track("ahead"))
        receiver.clock.advance(hours=-1)
        await receiver.deliver(track("after"))
        await receiver.dispatcher.run_due()
        assert sorted(map(str, calls)) == ["after", "ahead"]


async def test_what_was_received_before_the_clock_was_set_back_is_handled_after_a_restart(opened: Open) -> None:
    calls: list[str | None] = []
    async with opened(_subscription(calls)) as receiver:
        receiver.clock.advance(hours=1)
        await receiver.deliver(track("ahead"))
        receiver.clock.advance(hours=-1)
        await receiver.dispatcher.run_due()
        assert calls == ["ahead"]


async def test_what_was_on_its_way_while_the_clock_was_set_back_is_handled_a_little_later(opened: Open) -> None:
    calls: list[str | None] = []
    async with opened(_subscription(calls)) as receiver:
        before = receiver.clock() + timedelta(hours=1)
        receiver.clock.advance(hours=1)
        await receiver.dispatcher.run_due()
        receiver.clock.advance(hours=-1)
        await receiver.dispatcher.run_due()
        body = b'{"type":"track","event":"Step","userId":"u","messageId":"late"}'
        await receiver.log.append(new_event("late", type="track", body=body, received_at=before, install_id=None))
        receiver.clock.advance(seconds=15)
        await receiver.dispatcher.run_due()
        assert calls == ["late"]


async def _fail_once_and_set_the_clock_back(receiver: Receiver, **back: float) -> None:
    receiver.clock.advance(hours=1)
    await receiver.deliver(track())
    await receiver.dispatcher.run_due()
    receiver.clock.advance(**back)
    await receiver.dispatcher.run_due()


def _asks_for_half_an_hour(calls: list[str | None]) -> Subscription:
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def later(event: Event) -> None:
        calls.append(event.message_id)
        if len(calls) == 1:
            raise RetryError("later", retry_after=timedelta(minutes=30))

    return subscription


async def test_a_retry_whose_wait_began_in_the_future_is_made_at_once(opened: Open) -> None:
    calls: list[str | None] = []
    async with opened(_asks_for_half_an_hour(calls)) as receiver:
        await _fail_once_and_set_the_clock_back(receiver, hours=-1)
        assert len(calls) == 2
        assert (await receiver.only()).state is EventState.HANDLED


async def test_a_retry_whose_wait_began_before_keeps_it(opened: Open) -> None:
    calls: list[str | None] = []
    async with opened(_asks_for_half_an_hour(calls)) as receiver:
        await _fail_once_and_set_the_clock_back(receiver, minutes=10)
        receiver.clock.advance(minutes=-5)  # to five minutes after the attempt
        assert await receiver.dispatcher.run_due() == 1  # it is looked at, and put back
        assert len(calls) == 1
        receiver.clock.advance(minutes=24)
        assert await receiver.dispatcher.run_due() == 0
        receiver.clock.advance(minutes=1)
        assert await receiver.dispatcher.run_due() == 1
        assert len(calls) == 2


async def test_a_log_that_is_away_just_then_is_asked_again(opened: Open) -> None:
    calls: list[str | None] = []
    subscription = _subscription(calls)
    async with opened(subscription) as receiver:
        receiver.clock.advance(hours=1)
        await receiver.deliver(track("ahead"))
        receiver.clock.advance(hours=-1)
        log = FlakyLog(receiver.log)
        dispatcher = Dispatcher({"acme-crm": subscription}, log, receiver.database, clock=receiver.clock)
        log.failing = {"bring_forward"}
        assert await dispatcher.run_due() == 0
        log.failing = set()
        assert await dispatcher.run_due() == 1
        assert calls == ["ahead"]
