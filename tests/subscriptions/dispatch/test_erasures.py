"""How deletions end: noted in the audit before and after the log is wiped, many of them with one wait for the disk."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event as on_engine

from enable_with_segment import Event, EventNotSupported, Subscription
from enable_with_segment.db.control import audit
from enable_with_segment.db.event_log.records import ErasureReport, EventLogUnavailable
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.subscriptions.archive.erasure import ERASED, REQUESTED
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from enable_with_segment.subscriptions.dispatch.limits import DispatchLimits
from tests.subscriptions.flaky_log import FlakyLog
from tests.subscriptions.receiver import Open, Receiver, outcomes

_PEOPLE = 40


def _subscription() -> Subscription:
    subscription = Subscription("acme-crm")

    @subscription.on("identify")
    @subscription.on("delete")
    async def take(event: Event) -> None:
        """Every person is known, and forgotten again."""

    return subscription


async def _delete_everybody(receiver: Receiver) -> None:
    for number in range(_PEOPLE):
        await receiver.deliver({"type": "identify", "userId": f"u-{number}", "messageId": f"i-{number}"})
    receiver.clock.advance(seconds=1)
    for number in range(_PEOPLE):
        await receiver.deliver({"type": "delete", "userId": f"u-{number}", "messageId": f"d-{number}"})


async def _noted(receiver: Receiver) -> Counter[str]:
    async with receiver.database.transaction() as session:
        entries = await audit.list_newest(session, limit=10 * _PEOPLE)
    return Counter(entry.action for entry in entries if entry.action in (ERASED, REQUESTED))


async def test_many_deletions_share_their_transactions_in_the_audit(opened: Open) -> None:
    async with opened(_subscription()) as receiver:
        await _delete_everybody(receiver)
        written: list[str] = []

        def collect(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("INSERT INTO audit"):
                written.append(statement)

        on_engine.listen(receiver.database.engine.sync_engine, "before_cursor_execute", collect)
        await receiver.dispatcher.run_due()
        assert await _noted(receiver) == {REQUESTED: _PEOPLE, ERASED: _PEOPLE}
        assert {record.state for record in await receiver.records(type="delete")} == {EventState.HANDLED}
        assert len(written) < 1.75 * _PEOPLE, "the first of them begin together"


async def test_nothing_is_wiped_before_it_is_noted(opened: Open) -> None:
    async with opened(_subscription(), dispatch_limits=DispatchLimits(settle_waits=())) as receiver:
        await _delete_everybody(receiver)
        await _rename(receiver, "audit", "elsewhere")
        await receiver.dispatcher.run_due()
        deletes = await receiver.records(type="delete")
        assert {(record.state, record.erased) for record in deletes} == {(EventState.PENDING, False)}
        await _rename(receiver, "elsewhere", "audit")
        receiver.clock.advance(minutes=1)
        await receiver.dispatcher.run_due()
        assert (await _noted(receiver))[ERASED] == _PEOPLE
        assert {record.state for record in await receiver.records(type="delete")} == {EventState.HANDLED}


async def _rename(receiver: Receiver, old: str, new: str) -> None:
    async with receiver.database.engine.begin() as connection:
        await connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")


async def test_what_was_wiped_is_noted_though_the_audit_was_away_for_a_moment(opened: Open) -> None:
    statements = 0

    def fail_once(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal statements
        statements += statement.startswith("INSERT INTO audit")
        if (
            statement.startswith("INSERT INTO audit") and statements == 2
        ):  # the first note is written, and the log wiped
            raise ConnectionResetError

    async with opened(_subscription(), dispatch_limits=DispatchLimits(settle_waits=(0,))) as receiver:
        await receiver.deliver({"type": "delete", "userId": "u-1", "messageId": "d-1"})
        on_engine.listen(receiver.database.engine.sync_engine, "before_cursor_execute", fail_once)
        await receiver.dispatcher.run_due()
        assert (await receiver.only()).state is EventState.HANDLED
        assert await _noted(receiver) == {REQUESTED: 1, ERASED: 1}
        assert statements == 3


async def test_no_more_deletions_are_begun_than_are_ended_soon(
    on_sqlite: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is begun when the process dies nobody knows the effect."""
    begun, begins, may_end = 0, asyncio.Event(), asyncio.Event()
    subscription = Subscription("acme-crm")

    @subscription.on("delete")
    async def forget(event: Event) -> None:
        nonlocal begun
        begun += 1
        begins.set()

    async with on_sqlite(subscription, dispatch_limits=DispatchLimits(calls_per_handler=8)) as receiver:
        await _delete_everybody(receiver)
        erase = receiver.log.erase

        async def erase_later(event_id: int, lease: str, **options: Any) -> ErasureReport | None:
            await may_end.wait()
            return await erase(event_id, lease, **options)

        monkeypatch.setattr(receiver.log, "erase", erase_later)
        running = asyncio.create_task(receiver.dispatcher.run_due())
        await begins.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert 0 < begun <= 8
        may_end.set()
        await running
        assert begun == _PEOPLE
        assert {record.state for record in await receiver.records(type="delete")} == {EventState.HANDLED}


async def test_a_deletion_that_is_cut_off_goes_on_where_it_was(
    on_sqlite: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often: what handlers did is on record before the log is wiped, which takes longer than calling them."""
    calls, wiping = 0, asyncio.Event()
    subscription = Subscription("acme-crm")

    @subscription.on("delete")
    async def forget(event: Event) -> None:
        nonlocal calls
        calls += 1

    async def wipe_for_ever(*_: object, **_options: object) -> None:
        wiping.set()
        await asyncio.Event().wait()

    async with on_sqlite(subscription) as receiver:
        await receiver.deliver({"type": "delete", "userId": "u-1", "messageId": "d-1"})
        for _ in range(25):
            log = FlakyLog(receiver.log)
            log.failing = {"release"}  # it dies without giving anything back
            monkeypatch.setattr(log, "erase", wipe_for_ever)
            dispatcher = Dispatcher({"acme-crm": subscription}, log, receiver.database, clock=receiver.clock)
            wiping.clear()
            running = asyncio.create_task(dispatcher.run())
            await wiping.wait()
            running.cancel()
            await asyncio.wait([running])
            receiver.clock.advance(seconds=15)
        await receiver.dispatcher.run_due()
        record = await receiver.only()
        assert (record.state, record.attempts, record.erased, calls) == (EventState.HANDLED, 1, True, 1)
        assert (await outcomes(receiver, "d-1"))["forget"].attempts == 1
        async with receiver.database.transaction() as session:
            (entry,) = await audit.list_newest(session, action=ERASED)
        assert entry.detail["handlers"] == {"forget (delete)": "done"}


@pytest.mark.parametrize("is_over", [False, True], ids=["it goes on", "it dies"])
async def test_a_deletion_whose_log_was_wiped_is_noted_whatever_happens_next(
    opened: Open, monkeypatch: pytest.MonkeyPatch, *, is_over: bool
) -> None:
    """The log's answer is lost, and perhaps the process: the deletion is done again until all of it is on record."""
    limits = DispatchLimits(settle_waits=() if is_over else (0.0,))
    async with opened(_subscription(), dispatch_limits=limits) as receiver:
        await receiver.deliver({"type": "identify", "userId": "u-1", "messageId": "i-1"})
        await receiver.dispatcher.run_due()
        await receiver.deliver({"type": "delete", "userId": "u-1", "messageId": "d-1"})
        erase, is_lost = receiver.log.erase, False

        async def erase_and_lose_the_answer(event_id: int, lease: str, **options: Any) -> ErasureReport | None:
            nonlocal is_lost
            report = await erase(event_id, lease, **options)
            if not is_lost:
                is_lost = True
                raise EventLogUnavailable("the connection was lost")
            return report

        monkeypatch.setattr(receiver.log, "erase", erase_and_lose_the_answer)
        await receiver.dispatcher.run_due()
        assert (await receiver.only(message_id="i-1")).erased
        state = (await receiver.only(message_id="d-1")).state
        assert state is (EventState.PENDING if is_over else EventState.HANDLED)
        receiver.clock.advance(minutes=1)
        await receiver.dispatcher.run_due()
        deletion = await receiver.only(message_id="d-1")
        assert (deletion.state, deletion.erased) == (EventState.HANDLED, True)
        async with receiver.database.transaction() as session:
            (entry,) = await audit.list_newest(session, action=ERASED)
        assert (entry.detail["events"], entry.detail["handlers"]) == (1, {"take (delete)": "done"})


async def test_few_deletions_wipe_the_log_at_the_same_time(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them holds a connection, and somebody else may want one."""
    wiping = most = 0
    async with opened(_subscription(), dispatch_limits=DispatchLimits(calls_per_handler=_PEOPLE)) as receiver:
        await _delete_everybody(receiver)
        erase = receiver.log.erase

        async def erase_and_count(event_id: int, lease: str, **options: Any) -> ErasureReport | None:
            nonlocal wiping, most
            wiping += 1
            most = max(most, wiping)
            for _ in range(50):  # time for all the others to come
                await asyncio.sleep(0)
            report = await erase(event_id, lease, **options)
            wiping -= 1
            return report

        monkeypatch.setattr(receiver.log, "erase", erase_and_count)
        await receiver.dispatcher.run_due()
        assert most == 4
        assert {record.state for record in await receiver.records(type="delete")} == {EventState.HANDLED}


async def test_when_the_service_stops_what_is_not_begun_is_free_before_a_deletion_is_noted(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit may hang; others need not wait for it, nor for a lease to end."""
    subscription, called, noting, may_note = Subscription("acme-crm"), asyncio.Event(), asyncio.Event(), asyncio.Event()

    @subscription.on("track")
    async def hang(event: Event) -> None:
        called.set()
        await asyncio.Event().wait()

    @subscription.on("delete")
    async def forget(event: Event) -> None:
        """Forgotten."""

    add = audit.add

    async def add_later(*arguments: Any, **options: Any) -> None:
        noting.set()
        await may_note.wait()
        await add(*arguments, **options)

    async with opened(subscription, dispatch_limits=DispatchLimits(stop_seconds=0)) as receiver:
        await receiver.deliver({"type": "delete", "userId": "u-1", "messageId": "d-1"})
        await receiver.deliver({"type": "track", "userId": "u-2", "event": "Step", "messageId": "t-1"})
        monkeypatch.setattr(audit, "add", add_later)
        running = asyncio.create_task(receiver.dispatcher.run())
        await noting.wait()
        await called.wait()
        receiver.dispatcher.stop()
        async with asyncio.timeout(20):
            while not await _claim_by_another(receiver):  # noqa: ASYNC110  it is another process
                await asyncio.sleep(0.01)
        assert not running.done()
        may_note.set()
        await running


async def _claim_by_another(receiver: Receiver) -> list[str]:
    now = receiver.clock()
    claimed = await receiver.log.claim(["acme-crm"], limit=9, lease="another", now=now, until=now)
    return [event.type for event in claimed]


async def test_wh_15_what_handlers_said_of_a_deletion_goes_with_it(opened: Open) -> None:
    """Their texts may quote the person, and so may those that a late merge got."""
    subscription = Subscription("acme-crm")

    @subscription.on("delete")
    async def forget(event: Event) -> None:
        """Forgotten."""

    @subscription.on("alias")
    async def merge_people(event: Event) -> None:
        raise AssertionError("it comes too late")

    @subscription.on("delete")
    async def refuse(event: Event) -> None:
        raise EventNotSupported(f"{event.user_id} is nobody here")

    async with opened(subscription) as receiver:
        before = (receiver.clock() - timedelta(minutes=1)).isoformat()
        merge = {"type": "alias", "userId": "karin", "previousId": "lead", "messageId": "a-1", "timestamp": before}
        for message in ({"type": "delete", "userId": "karin", "messageId": "d-1"}, merge):
            await receiver.deliver(message)
            await receiver.dispatcher.run_due()
            (detail,) = await receiver.log.show(str(message["messageId"]))
            assert (detail.body, detail.record.erased, len(detail.handlers)) == (None, True, 2)
            assert {outcome.error for outcome in detail.handlers} == {None}
