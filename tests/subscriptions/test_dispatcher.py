"""Handing events over: fan-out, retries, dead letters, batches, several workers, and sudden ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from db.control import installs
from db.control.tables import Install, InstallStatus
from db.encryption import EncryptionKeys
from db.event_log.log import EventLog
from db.event_log.records import (
    Appended,
    ClaimedEvent,
    ErasureReport,
    EventLogUnavailable,
    HandlerRecord,
    NewEvent,
    Predecessor,
    Settlement,
)
from db.event_log.tables import EventState, HandlerState
from subscriptions import (
    Event,
    EventNotSupported,
    InstallContext,
    InvalidEventPayload,
    RetryError,
    Setting,
    Subscription,
    ValidationError,
)
from subscriptions.dispatch.dispatcher import Dispatcher
from subscriptions.dispatch.limits import DispatchLimits
from subscriptions.receiving.install_activity import InstallActivity
from tests.subscriptions.receiver import Receiver, open_receiver

Open = Callable[..., Any]


@pytest.fixture
def opened(database_url: str, encryption: EncryptionKeys) -> Open:
    """Open a service over fresh stores on either engine."""

    @asynccontextmanager
    async def open_(*subscriptions: Subscription, **options: Any) -> AsyncIterator[Receiver]:
        async with open_receiver(database_url, encryption, *subscriptions, **options) as receiver:
            yield receiver

    return open_


def track(message_id: str = "m-1", name: str = "Signed Up", **changes: Any) -> dict[str, Any]:
    return {"type": "track", "userId": "u-1", "event": name, "messageId": message_id, **changes}


async def outcomes(receiver: Receiver, message_id: str = "m-1") -> dict[str, HandlerRecord]:
    (detail,) = await receiver.log.show(message_id)
    return {outcome.handler.partition(" ")[0]: outcome for outcome in detail.handlers}


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
                Install(
                    id="ins_1",
                    account="acme",
                    component="acme-crm",
                    install_name="installs/7",
                    workspace_name="workspaces/myworkspace",
                    source_name="workspaces/myworkspace/sources/js",
                    scope="destination/acme-crm",
                    status=InstallStatus.CONNECTED,
                    created_at=now,
                    updated_at=now,
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


async def test_an_event_survives_the_death_of_the_process_that_works_on_it(opened: Open) -> None:
    calls = 0
    started = asyncio.Event()
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def die_once(event: Event) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            started.set()
            await asyncio.Event().wait()

    async with opened(subscription) as receiver:
        await receiver.deliver(track())
        now = receiver.clock()
        # Claimed by a process that is never heard of again: its lease ends, and then the event is handled.
        await receiver.log.claim(["acme-crm"], limit=1, lease="dead", now=now, until=now + timedelta(seconds=15))
        assert await receiver.dispatcher.run_due() == 0
        receiver.clock.advance(seconds=15)
        # A process that is told to go gives its events back at once.
        running = asyncio.create_task(receiver.dispatcher.run())
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await receiver.dispatcher.run_due() == 1
        assert calls == 2
        record = await receiver.only()
        assert (record.state, record.attempts) == (EventState.HANDLED, 2)  # the one without a result counts


async def test_two_dispatchers_share_the_work_without_doing_it_twice(opened: Open) -> None:
    seen: list[str | None] = []
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def count(event: Event) -> None:
        seen.append(event.message_id)

    async with opened(subscription) as receiver:
        await asyncio.gather(*(receiver.deliver(track(f"m-{number}")) for number in range(60)))
        other = Dispatcher({"acme-crm": subscription}, receiver.log, receiver.database, clock=receiver.clock)
        worked_on = await asyncio.gather(receiver.dispatcher.run_due(), other.run_due())
        assert sum(worked_on) == len(seen) == len(set(seen)) == 60


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


class FlakyLog:
    """An event log that fails at chosen moments and hands everything else on to a real one."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.failing: set[str] = set()
        self.renewed = asyncio.Event()

    def _check(self, method: str) -> None:
        if method in self.failing:
            raise EventLogUnavailable(f"{method} failed")

    async def append(self, event: NewEvent) -> Appended:
        return await self._log.append(event)

    async def claim(self, components: Collection[str], **options: Any) -> list[ClaimedEvent]:
        self._check("claim")
        return await self._log.claim(components, **options)

    async def predecessors(self, event_ids: Sequence[int]) -> Mapping[int, Sequence[Predecessor]]:
        self._check("predecessors")
        return await self._log.predecessors(event_ids)

    async def settle_all(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        self._check("settle")
        return await self._log.settle_all(settlements)

    async def renew(self, lease: str, event_ids: Sequence[int], *, until: datetime) -> None:
        self.renewed.set()
        self._check("renew")
        await self._log.renew(lease, event_ids, until=until)

    async def release(self, lease: str, event_ids: Sequence[int]) -> None:
        await self._log.release(lease, event_ids)

    async def erase(self, settlement: Settlement) -> ErasureReport | None:
        return await self._log.erase(settlement)

    async def due(self, components: Collection[str], *, now: datetime) -> int:
        return await self._log.due(components, now=now)


async def test_a_log_that_is_away_for_a_moment_loses_nothing(opened: Open) -> None:
    calls: list[str | None] = []
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def take(event: Event) -> None:
        calls.append(event.message_id)

    async with opened(subscription) as receiver:
        await receiver.deliver(track())
        log = FlakyLog(receiver.log)
        limits = DispatchLimits(settle_waits=(0.0, 0.0))
        dispatcher = Dispatcher({"acme-crm": subscription}, log, receiver.database, limits=limits, clock=receiver.clock)
        log.failing = {"claim"}
        assert await dispatcher.run_due() == 0
        log.failing = {"settle"}
        assert await dispatcher.run_due() == 1
        log.failing = set()
        assert await dispatcher.run_due() == 0  # the lease still runs
        receiver.clock.advance(seconds=15)
        assert await dispatcher.run_due() == 2  # first it is noted that the last attempt had no result
        assert calls == ["m-1", "m-1"]
        assert (await receiver.only()).state is EventState.HANDLED


async def test_a_result_is_kept_while_the_log_is_away_and_the_handler_is_not_called_again(opened: Open) -> None:
    calls: list[str | None] = []
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def take(event: Event) -> None:
        calls.append(event.message_id)

    class BackAfterThree(FlakyLog):
        failures = 3

        async def settle_all(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
            self.failures -= 1
            if self.failures >= 0:
                raise EventLogUnavailable("restarting")
            return await super().settle_all(settlements)

    async with opened(subscription) as receiver:
        await receiver.deliver(track())
        limits = DispatchLimits(settle_waits=(0.0, 0.0, 0.0))
        log = BackAfterThree(receiver.log)
        dispatcher = Dispatcher({"acme-crm": subscription}, log, receiver.database, limits=limits, clock=receiver.clock)
        assert await dispatcher.run_due() == 1
        assert calls == ["m-1"]
        assert (await receiver.only()).state is EventState.HANDLED


async def test_a_lease_is_renewed_while_a_handler_works(opened: Open) -> None:
    finish = asyncio.Event()
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def slow(event: Event) -> None:
        await finish.wait()

    async with opened(subscription) as receiver:
        await receiver.deliver(track())
        log = FlakyLog(receiver.log)
        limits = DispatchLimits(lease_seconds=0.06)
        dispatcher = Dispatcher({"acme-crm": subscription}, log, receiver.database, limits=limits, clock=receiver.clock)
        log.failing = {"renew"}
        working = asyncio.create_task(dispatcher.run_due())
        await log.renewed.wait()  # one renewal that fails does no harm
        log.failing.clear()
        receiver.clock.advance(minutes=5)
        log.renewed.clear()
        await log.renewed.wait()
        log.renewed.clear()
        await log.renewed.wait()
        now = receiver.clock()
        assert await receiver.log.claim(["acme-crm"], limit=1, lease="other", now=now, until=now) == []
        finish.set()
        assert await working == 1
        assert (await receiver.only()).state is EventState.HANDLED


async def test_a_worker_that_was_frozen_past_its_lease_records_nothing(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = Subscription("acme-crm")

    async with opened(subscription) as receiver:

        @subscription.on("track")
        async def frozen(event: Event) -> None:
            receiver.clock.advance(minutes=5)
            now = receiver.clock()
            (taken,) = await receiver.log.claim(
                ["acme-crm"], limit=1, lease="other", now=now, until=now + timedelta(minutes=1)
            )
            assert taken.attempts == 0

        await receiver.deliver(track())
        await receiver.dispatcher.run_due()
        assert (await receiver.only()).state is EventState.PENDING
        assert "taken over by somebody else" in caplog.text


async def test_a_control_store_that_is_away_delays_an_event_and_no_more(opened: Open) -> None:
    calls: list[str] = []
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def take(event: Event, install: InstallContext) -> None:
        calls.append(install.account)

    async with opened(subscription) as receiver:
        key = await receiver.mint("acme", install_id="ins_1")
        await receiver.deliver(track(), key=key)

        async def rename(old: str, new: str) -> None:
            async with receiver.database.engine.begin() as connection:
                await connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

        await rename("installs", "elsewhere")
        await receiver.dispatcher.run_due()
        assert (await receiver.only()).state is EventState.PENDING
        await rename("elsewhere", "installs")
        receiver.clock.advance(seconds=2)
        await receiver.dispatcher.run_due()
        assert calls == ["acme"]
        assert (await receiver.only()).state is EventState.HANDLED
        assert set(await outcomes(receiver)) == {"take"}


async def test_a_handler_that_is_cancelled_from_inside_has_failed_like_any_other(opened: Open) -> None:
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def cancelled(event: Event) -> None:
        raise asyncio.CancelledError("by a library")

    async with opened(subscription) as receiver:
        await receiver.deliver(track())
        await receiver.dispatcher.run_due()
        record = await receiver.only()
        assert record.state is EventState.PENDING
        assert record.last_error is not None
        assert "cancelled from inside" in record.last_error


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
                session.add(
                    Install(
                        id=f"ins_{number}",
                        account="acme",
                        component="acme-crm",
                        install_name=f"installs/{number}",
                        workspace_name="workspaces/w",
                        scope="destination/acme-crm",
                        status=InstallStatus.CONNECTED,
                        created_at=now,
                        updated_at=now,
                    )
                )
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
