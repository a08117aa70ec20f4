"""What goes wrong inside a dispatcher holds no event for good, and costs its neighbours nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from enable_with_segment import Event, Subscription
from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from enable_with_segment.subscriptions.dispatch.leases import Leases
from tests.db.event_log.events import new_event
from tests.subscriptions.receiver import Receiver, Recorder


class Unspeakable(Exception):
    """An error that cannot even be printed."""

    def __str__(self) -> str:
        raise AttributeError("code")


class Unreadable(Mapping[str, BaseException]):
    """An answer that cannot be read."""

    def __getitem__(self, key: str) -> BaseException:
        raise ZeroDivisionError

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _track(number: int, **changes: Any) -> dict[str, Any]:
    return {"type": "track", "event": "A", "userId": "u", "messageId": f"m-{number}", **changes}


async def _dispatch(receiver: Receiver, subscription: Subscription) -> None:
    dispatcher = Dispatcher({"acme-crm": subscription}, receiver.log, receiver.database, clock=receiver.clock)
    await dispatcher.run_due()
    assert dispatcher._leases.count == 0
    assert not dispatcher._held


async def test_a_handlers_error_that_cannot_be_printed_is_a_failure_like_any_other(receiver: Receiver) -> None:
    subscription = Subscription("acme-crm")

    @subscription.on("track", ordered=True)
    async def fail(event: Event) -> None:
        raise Unspeakable

    for number in range(3):
        await receiver.deliver(_track(number))
    await _dispatch(receiver, subscription)
    first, *others = await receiver.records()
    assert (first.attempts, first.last_error) == (1, "fail (track): Unspeakable")
    assert {record.state for record in others} == {EventState.PENDING}


async def test_a_batch_handlers_answer_that_cannot_be_read_is_a_failure_like_any_other(receiver: Receiver) -> None:
    subscription = Subscription("acme-crm")

    @subscription.on("track", batch=10)
    async def fail(events: list[Event]) -> Unreadable:
        return Unreadable()

    await receiver.deliver(_track(1))
    await _dispatch(receiver, subscription)
    record = await receiver.only()
    assert (record.attempts, record.last_error) == (1, "fail (track): ZeroDivisionError")


async def test_results_are_stored_while_the_audit_of_a_deletion_cannot_be_written(
    receiver: Receiver, recorder: Recorder
) -> None:
    await receiver.deliver(_track(1))
    await receiver.deliver({"type": "delete", "userId": "other", "messageId": "d"})
    await receiver.deliver(_track(2))
    async with receiver.database.engine.begin() as connection:
        await connection.exec_driver_sql(
            "CREATE TRIGGER away BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'away'); END"
        )
    working = asyncio.create_task(receiver.dispatcher.run_due())
    while len(await receiver.records(state=EventState.HANDLED)) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert (await receiver.only(type="delete")).state is EventState.PENDING
    async with receiver.database.engine.begin() as connection:
        await connection.exec_driver_sql("DROP TRIGGER away")
    await working
    assert (await receiver.only(type="delete")).state is EventState.HANDLED


class _Watched(SqliteEventLog):
    """A log that notes how often the event loop had gone round at each claim."""

    rounds = 0

    async def claim(self, *arguments: Any, **options: Any) -> Any:
        self.claims = [*getattr(self, "claims", []), self.rounds]
        return await super().claim(*arguments, **options)

    def count_rounds(self) -> None:
        self.rounds += 1
        self.next_round = asyncio.get_running_loop().call_soon(self.count_rounds)


async def test_everybody_else_gets_a_turn_between_two_claims(receiver: Receiver, recorder: Recorder) -> None:
    for number in range(400):
        await receiver.deliver(_track(number))
    log = _Watched(receiver.log._path)  # type: ignore[attr-defined]
    await receiver.log.close()
    dispatcher = Dispatcher({"acme-crm": recorder.subscription}, log, receiver.database, clock=receiver.clock)
    log.count_rounds()
    running = asyncio.create_task(dispatcher.run())
    while len(recorder.events) < 400:
        await asyncio.sleep(0.01)
        receiver.clock.advance(milliseconds=50)  # what did not fit into its sender's queue is put back for a while
    dispatcher.stop()
    await running
    log.next_round.cancel()
    assert len(log.claims) > 3
    assert len(set(log.claims)) == len(log.claims)
    await log.close()


class _Stumbling(SqliteEventLog):
    """A log with a mistake in it."""

    renewals = 0

    async def renew(self, *arguments: Any, **options: Any) -> None:
        self.renewals += 1
        if self.renewals == 1:
            raise ZeroDivisionError
        await super().renew(*arguments, **options)


async def test_leases_are_renewed_again_after_a_mistake(tmp_path: Path) -> None:
    log = _Stumbling(tmp_path / "events.db")
    leases = Leases(log, seconds=0.01, clock=utc_now)
    await log.append(new_event())
    async with leases.kept_alive():
        assert len(await leases.claim(["acme-crm"], limit=1)) == 1
        while log.renewals < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await log.close()
