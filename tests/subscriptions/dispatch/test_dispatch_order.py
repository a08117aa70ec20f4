"""The events of one person come in order, where a handler asks for it."""

from __future__ import annotations

import asyncio
from collections import Counter

from enable_with_segment import Event, InvalidEventPayload, RetryError, Subscription
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from enable_with_segment.subscriptions.dispatch.limits import DispatchLimits
from tests.subscriptions.receiver import Open, track


async def test_events_of_a_person_come_in_order_one_at_a_time_and_wait_for_one_that_fails(on_sqlite: Open) -> None:
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

    async with on_sqlite(subscription, dispatch_limits=DispatchLimits(calls_per_handler=8)) as receiver:
        for number in range(5):
            for user in ("u-1", "u-2"):
                await receiver.deliver(track(f"{user}-{number}", userId=user))
        await receiver.dispatcher.run_due()
        assert seen.count("u-1-0") == 1
        assert [message for message in seen if message and message.startswith("u-2")] == [
            f"u-2-{number}" for number in range(5)
        ]
        assert len(seen) == 6
        assert free["calls"] == 10
        await receiver.deliver(track("u-1-5"))
        for _ in range(60):  # one after the other, each waits for up to two minutes
            receiver.clock.advance(seconds=20)
            # A dispatcher that knows nothing of earlier ones keeps the order as well.
            dispatcher = Dispatcher({"acme-crm": subscription}, receiver.log, receiver.database, clock=receiver.clock)
            await dispatcher.run_due()
        assert [message for message in seen if message and message.startswith("u-1")] == [
            f"u-1-{number}" for number in range(6)
        ]
        assert {record.state for record in await receiver.records()} == {EventState.HANDLED}


async def test_what_is_given_up_lets_the_persons_later_events_go_on(on_sqlite: Open) -> None:
    subscription, seen = Subscription("acme-crm"), list[str | None]()

    @subscription.on("track", ordered=True)
    async def in_order(event: Event) -> None:
        if event.message_id == "t-0":
            raise InvalidEventPayload("unusable")
        seen.append(event.message_id)

    async with on_sqlite(subscription) as receiver:
        await receiver.deliver_tracks("t", 3)
        await receiver.dispatcher.run_due()
        assert seen == ["t-1", "t-2"]


async def test_the_next_event_of_a_person_is_due_as_soon_as_its_predecessor_is_done(
    opened: Open,
) -> None:
    """Without a dispatcher that remembers, as after a kill or with several processes: each waited up to two minutes."""
    subscription, seen = Subscription("acme-crm"), list[str | None]()
    failing = True

    @subscription.on("track", ordered=True)
    async def in_order(event: Event) -> None:
        if failing and event.message_id == "m-0":
            raise RetryError("not yet", retry_after=60)
        seen.append(event.message_id)

    async with opened(subscription) as receiver:
        for number in range(30):
            await receiver.deliver(track(f"m-{number}"))

        async def run() -> None:
            dispatcher = Dispatcher({"acme-crm": subscription}, receiver.log, receiver.database, clock=receiver.clock)
            await dispatcher.run_due()

        await run()
        receiver.clock.advance(seconds=50)
        await run()
        assert seen == []
        failing = False
        receiver.clock.advance(seconds=11)
        for _ in range(31):
            await run()
        assert seen == [f"m-{number}" for number in range(30)], "no wait in between"
        assert {record.state for record in await receiver.records()} == {EventState.HANDLED}
