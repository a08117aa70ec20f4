"""Who holds an event: several workers, sudden ends, and stores that are away while a handler works."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from enable_with_segment import Event, InstallContext, RetryError, Subscription
from enable_with_segment.db.event_log.records import EventLogUnavailable, Settlement
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from enable_with_segment.subscriptions.dispatch.limits import DispatchLimits
from tests.subscriptions.flaky_log import FlakyLog
from tests.subscriptions.receiver import Open, Receiver, outcomes, track


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
        # Begun by a process that is never heard of again: its lease ends, and then the event is handled.
        await _die(receiver, found_after=timedelta(0))
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


class AnswerLost(FlakyLog):
    """A log whose connection is lost once after the last commit for an event, before anybody hears of it."""

    lost = False

    async def settle_all(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        stored = await super().settle_all(settlements)
        if not any(settlement.keeps_lease for settlement in settlements):
            self._lose_once()
        return stored

    def _lose_once(self) -> None:
        if not self.lost:
            self.lost = True
            raise EventLogUnavailable("the connection was lost")


@pytest.mark.parametrize(
    "event", [track(), {"type": "delete", "userId": "u-1", "messageId": "d-1"}], ids=["track", "delete"]
)
async def test_a_result_whose_answer_was_lost_is_not_said_to_be_somebody_elses(
    opened: Open, caplog: pytest.LogCaptureFixture, event: dict[str, Any]
) -> None:
    calls: list[str | None] = []
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    @subscription.on("delete")
    async def take(event: Event) -> None:
        calls.append(event.message_id)

    async with opened(subscription) as receiver:
        await receiver.deliver(event)
        log, limits = AnswerLost(receiver.log), DispatchLimits(settle_waits=(0.0,))
        dispatcher = Dispatcher({"acme-crm": subscription}, log, receiver.database, limits=limits, clock=receiver.clock)
        assert await dispatcher.run_due() == 1
        receiver.clock.advance(minutes=1)
        assert await dispatcher.run_due() == 0
        assert len(calls) == 1
        assert (await receiver.only()).state is EventState.HANDLED
        assert "stored already by a try whose answer was lost" in caplog.text
        assert "not recorded" not in caplog.text


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


async def _die(receiver: Receiver, *, found_after: timedelta = timedelta(seconds=15)) -> None:
    """Begin with an event as a process that is never heard of again; its lease is over when the next one looks."""
    now = receiver.clock()
    lease, until = f"dead at {now}", now + timedelta(seconds=15)
    (claimed,) = await receiver.log.claim(["acme-crm"], limit=1, lease=lease, now=now, until=until)
    receiver.log.begin(lease, [claimed.id])
    receiver.clock.now += found_after


async def _find(receiver: Receiver) -> int:
    """Look for work once; returns how much there was."""
    claimed = await receiver.dispatcher._claim_and_start()
    await receiver.dispatcher._finish()
    return claimed


async def test_a_sudden_end_costs_no_attempt_of_a_handler_that_was_not_called(opened: Open) -> None:
    subscription, calls = Subscription("acme-crm"), Counter[str]()

    @subscription.on("track")
    async def soon(event: Event) -> None:
        calls["soon"] += 1
        if calls["soon"] == 1:
            raise RetryError("busy", retry_after=timedelta(minutes=1))

    @subscription.on("track")
    async def late(event: Event) -> None:
        calls["late"] += 1
        if calls["late"] == 1:
            raise RetryError("closed", retry_after=timedelta(hours=1))

    async with opened(subscription) as receiver:
        await receiver.deliver(track())
        await receiver.dispatcher.run_due()
        closed = (await outcomes(receiver))["late"]
        receiver.clock.advance(minutes=1)
        await _die(receiver)
        await _find(receiver)
        after = await outcomes(receiver)
        assert (after["soon"].state, after["soon"].attempts) == (HandlerState.UNKNOWN, 2)
        assert after["late"] == closed
        receiver.clock.advance(minutes=1)
        await receiver.dispatcher.run_due()
        assert calls == {"soon": 2, "late": 1}

        # Nobody was called by this one, so nothing of it is on record.
        assert await receiver.log.hasten("acme-crm", now=receiver.clock()) == 1
        await _die(receiver)
        await _find(receiver)
        assert (await outcomes(receiver))["late"] == closed
        assert (await receiver.only()).available_at == closed.due_at
        receiver.clock.advance(hours=1)
        await receiver.dispatcher.run_due()
        assert calls == {"soon": 2, "late": 2}
        assert (await receiver.only()).state is EventState.HANDLED


async def test_a_sudden_end_costs_nothing_of_what_no_handler_was_called_with(on_sqlite: Open) -> None:
    """What waits in a queue while other events are handled, or while an operator has paused the handler."""
    subscription, working = Subscription("acme-crm"), asyncio.Event()

    @subscription.on("track")
    async def hang(event: Event) -> None:
        working.set()
        await asyncio.Event().wait()

    async with on_sqlite(subscription) as receiver:
        await receiver.deliver_tracks("t", 3)
        limits = DispatchLimits(calls_per_handler=1)
        log = FlakyLog(receiver.log)  # it dies without giving anything back
        dead = Dispatcher({"acme-crm": subscription}, log, receiver.database, limits=limits, clock=receiver.clock)
        log.failing = {"release"}
        running = asyncio.create_task(dead.run())
        await working.wait()
        running.cancel()
        await asyncio.wait([running])
        receiver.clock.advance(seconds=15)
        now = receiver.clock()
        again = await receiver.log.claim(["acme-crm"], limit=9, lease="next", now=now, until=now)
        assert [event.interrupted for event in again] == [True, False, False]


async def test_days_of_sudden_ends_leave_a_handler_all_its_attempts(opened: Open) -> None:
    """A deployment that is killed again and again for days, and then one ordinary failure."""
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def handle(event: Event) -> None:
        raise ConnectionError("away")

    async with opened(subscription) as receiver:
        await receiver.deliver(track())
        for _ in range(6):
            await _die(receiver, found_after=timedelta(hours=18))
            await _find(receiver)
            receiver.clock.advance(minutes=2)
        await receiver.dispatcher.run_due()
        failed = (await outcomes(receiver))["handle"]
        assert (failed.state, failed.attempts, failed.results) == (HandlerState.RETRY, 7, 1)
        assert (await receiver.only()).state is EventState.PENDING


async def test_an_attempt_without_a_result_is_on_record_and_a_fatal_event_is_given_up(on_sqlite: Open) -> None:
    subscription, calls = Subscription("acme-crm"), Counter[str | None]()

    @subscription.on("track")
    async def handle(event: Event) -> None:
        calls[event.message_id] += 1

    async with on_sqlite(subscription) as receiver:
        await receiver.deliver_tracks("t", 1)

        await _die(receiver)
        assert (await _find(receiver), calls["t-0"]) == (1, 0)
        unknown = (await outcomes(receiver, "t-0"))["handle"]
        assert (unknown.state, unknown.attempts) == (HandlerState.UNKNOWN, 1)
        for _ in range(19):
            receiver.clock.advance(minutes=30)
            await _die(receiver)
            await _find(receiver)
        record = await receiver.only()
        assert record.state is EventState.DEAD_LETTER
        assert "nobody knows its effect (given up after 20 attempts)" in (record.last_error or "")
        assert calls["t-0"] == 0
