"""Handing events over: fan-out, retries, dead letters, batches, and what handlers are told."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from enable_with_segment import (
    Event,
    EventNotSupported,
    InstallContext,
    InvalidEventPayload,
    RetryError,
    Setting,
    Subscription,
    ValidationError,
)
from enable_with_segment.db.control import installs
from enable_with_segment.db.control.tables import InstallStatus
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from enable_with_segment.subscriptions.dispatch.limits import DispatchLimits
from enable_with_segment.subscriptions.receiving.install_activity import InstallActivity
from tests.rows import an_install
from tests.subscriptions.receiver import Open, outcomes, track


async def test_every_matching_handler_gets_the_event_whatever_case_its_name_is_in(opened: Open) -> None:
    calls: list[str] = []
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def everything(event: Event) -> None:
        calls.append("everything")

    @subscription.on("track", event="Order Completed")
    async def orders(event: Event) -> None:
        calls.append("orders")

    @subscription.on("identify")
    async def people(event: Event) -> None:
        calls.append("people")

    async with opened(subscription) as receiver:
        await receiver.deliver(track(name=" order COMPLETED"))
        assert await receiver.dispatcher.run_due() == 1
        assert sorted(calls) == ["everything", "orders"]
        assert set(await outcomes(receiver)) == {"everything", "orders"}


async def test_an_event_no_handler_wants_is_recorded_as_unsupported(opened: Open) -> None:
    subscription = Subscription("acme-crm")

    @subscription.on("track", event="Order Completed")
    async def orders(event: Event) -> None:
        raise AssertionError

    @subscription.on("identify")
    async def picky(event: Event) -> None:
        raise EventNotSupported("we only take companies")

    async with opened(subscription) as receiver:
        await receiver.deliver(track())
        await receiver.deliver({"type": "identify", "userId": "u", "messageId": "m-2"})
        await receiver.dispatcher.run_due()
        assert {record.state for record in await receiver.records()} == {EventState.UNSUPPORTED}
        assert (await outcomes(receiver, "m-2"))["picky"].error == "we only take companies"
        receiver.clock.advance(days=1)
        assert await receiver.dispatcher.run_due() == 0


@pytest.mark.parametrize("error", [InvalidEventPayload("no price"), ValidationError("no price")])
async def test_an_event_that_cannot_be_used_is_a_dead_letter_at_once(opened: Open, error: Exception) -> None:
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def strict(event: Event) -> None:
        raise error

    async with opened(subscription) as receiver:
        await receiver.deliver(track())
        await receiver.dispatcher.run_due()
        record = await receiver.only()
        assert (record.state, record.attempts) == (EventState.DEAD_LETTER, 1)
        assert record.last_error == "strict (track): no price"
        assert (await receiver.log.prove(["m-1", "m-2"])).unhandled == ("m-1",)


async def test_a_failing_handler_is_called_again_and_the_others_are_not(opened: Open) -> None:
    calls: list[str] = []
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def steady(event: Event) -> None:
        calls.append("steady")

    @subscription.on("track")
    async def shaky(event: Event) -> None:
        calls.append("shaky")
        if calls.count("shaky") < 3:
            raise ConnectionError("the CRM is away")

    async with opened(subscription) as receiver:
        await receiver.deliver(track())
        assert await receiver.dispatcher.run_due() == 1
        record = await receiver.only()
        assert (record.state, record.attempts) == (EventState.PENDING, 1)
        assert record.last_error == "shaky (track): ConnectionError: the CRM is away"
        assert await receiver.dispatcher.run_due() == 0
        receiver.clock.advance(seconds=2)
        await receiver.dispatcher.run_due()
        assert (await receiver.only()).available_at == receiver.clock() + timedelta(seconds=4)
        receiver.clock.advance(seconds=4)
        await receiver.dispatcher.run_due()
        assert calls.count("steady") == 1
        assert calls.count("shaky") == 3
        assert (await receiver.only()).state is EventState.HANDLED
        assert (await outcomes(receiver))["shaky"].attempts == 3


async def test_what_keeps_failing_becomes_a_dead_letter_and_can_be_retried(opened: Open) -> None:
    broken = True
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def store(event: Event) -> None:
        if broken:
            raise RuntimeError("disk full")

    async with opened(subscription) as receiver:
        await receiver.deliver(track())
        for _ in range(20):
            assert await receiver.dispatcher.run_due() == 1
            receiver.clock.advance(hours=1)
        assert await receiver.dispatcher.run_due() == 0
        record = await receiver.only(state=EventState.DEAD_LETTER)
        assert record.last_error == "store (track): RuntimeError: disk full (given up after 20 attempts)"
        broken = False
        assert await receiver.log.retry_dead_letters([record.id], now=receiver.clock()) == 1
        await receiver.dispatcher.run_due()
        assert (await receiver.only()).state is EventState.HANDLED


async def test_a_handler_says_when_to_try_again(opened: Open) -> None:
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def limited(event: Event) -> None:
        raise RetryError("too many requests", retry_after=90)

    async with opened(subscription) as receiver:
        await receiver.deliver(track())
        await receiver.dispatcher.run_due()
        record = await receiver.only()
        assert record.available_at == receiver.clock() + timedelta(seconds=90)
        assert (await outcomes(receiver))["limited"].state is HandlerState.RETRY


async def test_a_handler_that_hangs_is_cut_off_and_holds_up_no_other(opened: Open) -> None:
    done = asyncio.Event()
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def hang(event: Event) -> None:
        await asyncio.Event().wait()

    @subscription.on("identify")
    async def quick(event: Event) -> None:
        done.set()

    limits = DispatchLimits(handler_seconds=0.2, calls_per_handler=1)
    async with opened(subscription, dispatch_limits=limits) as receiver:
        await receiver.deliver(track("m-1"))
        await receiver.deliver({"type": "identify", "userId": "u", "messageId": "m-2"})
        working = asyncio.create_task(receiver.dispatcher.run_due())
        await done.wait()
        assert (await receiver.only(message_id="m-1")).state is EventState.PENDING
        await working
        assert (await receiver.only(message_id="m-1")).last_error == "hang (track): it took too long"
        assert (await receiver.only(message_id="m-2")).state is EventState.HANDLED


async def test_a_batch_handler_gets_batches_of_one_install_and_answers_per_item(opened: Open) -> None:
    batches: list[tuple[str, list[str | None]]] = []
    subscription = Subscription("acme-crm")

    @subscription.on("track", batch=3)
    async def store(events: list[Event], install: InstallContext) -> list[Exception | None]:
        batches.append((install.account, [event.message_id for event in events]))
        return [ValidationError("odd") if event.event == "Odd" else None for event in events]

    async with opened(subscription) as receiver:
        globex = await receiver.mint("globex")
        for number in range(4):
            await receiver.deliver(track(f"a-{number}", name="Odd" if number == 1 else "Even"))
            await receiver.deliver(track(f"g-{number}"), key=globex)
        await receiver.dispatcher.run_due()
        assert sorted(batches) == [
            ("acme", ["a-0", "a-1", "a-2"]),
            ("acme", ["a-3"]),
            ("globex", ["g-0", "g-1", "g-2"]),
            ("globex", ["g-3"]),
        ]
        dead = await receiver.records(state=EventState.DEAD_LETTER)
        assert [(record.message_id, record.last_error) for record in dead] == [("a-1", "store (track): odd")]
        assert len(await receiver.records(state=EventState.HANDLED)) == 7


async def test_handlers_learn_whom_an_event_is_from(opened: Open) -> None:
    seen: list[InstallContext] = []
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def look(event: Event, install: InstallContext) -> None:
        seen.append(install)

    async with opened(subscription) as receiver:
        now = receiver.clock()
        async with receiver.database.transaction() as session:
            session.add(
                an_install(
                    "ins_1",
                    now=now,
                    workspace_name="workspaces/myworkspace",
                    source_name="workspaces/myworkspace/sources/js",
                )
            )
        key = await receiver.mint("acme", install_id="ins_1")
        await receiver.deliver(track(), key=key)
        assert receiver.received == ["ins_1"]
        activity = InstallActivity(receiver.database, clock=receiver.clock)
        for install_id in [*receiver.received, *receiver.received, None]:
            activity.note(install_id)
        assert await activity.flush() == 1
        await receiver.deliver(track("m-2"))
        await receiver.dispatcher.run_due()
        workspace = "workspaces/myworkspace"
        assert sorted(seen, key=lambda install: install.install_id or "") == [
            InstallContext("acme", "acme-crm"),
            InstallContext("acme", "acme-crm", "ins_1", workspace, f"{workspace}/sources/js", "receiving"),
        ]


async def test_events_of_components_served_elsewhere_are_left_alone(opened: Open) -> None:
    mail, crm = Subscription("acme-mail"), Subscription("acme-crm")
    for subscription in (mail, crm):

        @subscription.on("track")
        async def take(event: Event) -> None: ...

    async with opened(mail, crm) as receiver:
        await receiver.deliver(track(), component="acme-mail")
        only_crm = Dispatcher({"acme-crm": crm}, receiver.log, receiver.database, clock=receiver.clock)
        assert await only_crm.run_due() == 0
        await only_crm.idle()
        assert await receiver.dispatcher.run_due() == 1


async def test_a_running_dispatcher_stops_when_told_and_finishes_what_it_holds(opened: Open) -> None:
    started, finish = asyncio.Event(), asyncio.Event()
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def slow(event: Event) -> None:
        started.set()
        await finish.wait()

    async with opened(subscription) as receiver:
        running = asyncio.create_task(receiver.dispatcher.run())
        await receiver.deliver(track())
        receiver.dispatcher.wake()
        await started.wait()
        receiver.dispatcher.stop()
        finish.set()
        await running
        assert (await receiver.only()).state is EventState.HANDLED


async def test_a_delete_that_fails_is_tried_again_and_erases_then(opened: Open) -> None:
    attempts = 0
    subscription = Subscription("acme-crm")

    @subscription.on("delete")
    async def forget(event: Event) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ConnectionError

    async with opened(subscription) as receiver:
        await receiver.deliver({"type": "delete", "userId": "u-1", "messageId": "delete-1"})
        await receiver.dispatcher.run_due()
        assert not (await receiver.only()).erased
        receiver.clock.advance(seconds=2)
        await receiver.dispatcher.run_due()
        record = await receiver.only()
        assert (record.state, record.erased, attempts) == (EventState.HANDLED, True, 2)


async def test_events_of_one_install_never_meet_another_ones_context(opened: Open) -> None:
    seen: set[tuple[str | None, str, str]] = set()
    subscription = Subscription("acme-crm", settings=[Setting("region")])

    @subscription.on("track")
    async def single(event: Event, install: InstallContext, settings: dict[str, str]) -> None:
        seen.add((event.user_id, install.account, settings["region"]))

    @subscription.on("track", batch=50)
    async def many(events: list[Event], install: InstallContext, settings: dict[str, str]) -> None:
        seen.update((event.user_id, install.account, settings["region"]) for event in events)

    async with opened(subscription) as receiver:
        keys = {account: await receiver.mint(account) for account in ("red", "green", "blue")}
        for number in range(30):
            account, key = list(keys.items())[number % 3]
            region = f"{account}-{number % 2}"
            user = f"user of {account} in {region}"
            await receiver.deliver(track(f"m-{number}", userId=user), key=key, settings={"region": region})
        await receiver.dispatcher.run_due()
        assert len(seen) == 6
        assert {user for user, _, _ in seen} == {f"user of {account} in {region}" for _, account, region in seen}


async def test_activity_is_written_down_in_the_background(opened: Open) -> None:
    async with opened(Subscription("acme-crm")) as receiver:
        now = receiver.clock()
        async with receiver.database.transaction() as session:
            for number in (1, 2):
                session.add(an_install(f"ins_{number}", now=now))
        activity = InstallActivity(receiver.database, seconds=0.01, clock=receiver.clock)
        running = asyncio.create_task(activity.run())

        async def status(install_id: str) -> InstallStatus:
            async with receiver.database.transaction() as session:
                install = await installs.get(session, install_id)
            assert install is not None
            return install.status

        activity.note("ins_1")
        async with asyncio.timeout(10):
            while await status("ins_1") is not InstallStatus.RECEIVING:  # noqa: ASYNC110  the store has no event
                await asyncio.sleep(0.01)
        activity.note("ins_2")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await status("ins_2") is InstallStatus.RECEIVING
