"""One more message of a deletion on PostgreSQL, where events are stored beside it that it does not see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.deletion import Repetition
from enable_with_segment.db.event_log.postgresql import appending, deletion
from enable_with_segment.db.event_log.postgresql.log import SqlEventLog
from enable_with_segment.db.event_log.records import (
    EventDetail,
    EventLogUnavailable,
    NewEvent,
    ReplayPolicy,
    Settlement,
)
from enable_with_segment.db.event_log.states import EventState
from tests.db.event_log.events import COMPONENTS, NOON, erase, later, new_event, settle

AT = later(minutes=1)


@pytest.fixture
async def log(postgresql_url: str) -> AsyncIterator[SqlEventLog]:
    """A log in which one deletion is done."""
    opened = SqlEventLog(Database.open(postgresql_url))
    await opened.append(new_event("d-1", type="delete"))
    (first,) = await opened.claim(COMPONENTS, limit=9, lease="a", now=NOON, until=AT)
    assert await erase(opened, Settlement(first.id, "a", EventState.HANDLED, NOON))
    yield opened
    await opened.close()


async def detail_of(log: SqlEventLog, message_id: str) -> EventDetail:
    (detail,) = await log.show(message_id)
    return detail


async def store_again(log: SqlEventLog) -> None:
    await log.append(new_event("d-2", type="delete", received_at=AT, occurred_at=AT))


async def test_nothing_is_left_of_it_when_nothing_came_between(log: SqlEventLog) -> None:
    await store_again(log)
    again = await detail_of(log, "d-2")
    assert (again.record.state, again.body, again.record.erased) == (EventState.REPEATED_DELETE, None, True)
    assert await log.claim(COMPONENTS, limit=9, lease="c", now=later(minutes=5), until=later(minutes=6)) == []


@pytest.mark.parametrize("is_handled_before", [True, False], ids=["handled before", "handled after"])
async def test_an_event_that_is_stored_beside_it_makes_it_a_deletion_of_its_own(
    log: SqlEventLog, monkeypatch: pytest.MonkeyPatch, *, is_handled_before: bool
) -> None:
    async def handle() -> bool:
        claimed = await log.claim(COMPONENTS, limit=9, lease="b", now=AT, until=later(minutes=2))
        (event,) = (one for one in claimed if one.type != "delete")
        await settle(log, Settlement(event.id, "b", EventState.HANDLED, AT))
        return event.suppressed

    looked, may_go_on = asyncio.Event(), asyncio.Event()
    _hold_up(monkeypatch, looked, may_go_on)
    storing = asyncio.create_task(store_again(log))
    await looked.wait()
    await log.append(new_event("e-1", received_at=AT, occurred_at=later(seconds=30)))
    if is_handled_before:
        assert await handle() is False
    may_go_on.set()
    await storing
    if not is_handled_before:
        assert await handle() is True
    (again,) = await log.claim(COMPONENTS, limit=9, lease="c", now=later(minutes=3), until=later(minutes=4))
    assert (again.type, bool(again.body)) == ("delete", True)
    assert await erase(log, Settlement(again.id, "c", EventState.HANDLED, later(minutes=3)))
    assert (await detail_of(log, "e-1")).body is None


async def test_the_first_one_does_not_wipe_what_makes_the_second_a_deletion_of_its_own(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqlEventLog(Database.open(postgresql_url))
    await log.append(new_event("d-1", type="delete"))
    (first,) = await log.claim(COMPONENTS, limit=9, lease="a", now=NOON, until=later(minutes=9))
    looked, may_go_on = asyncio.Event(), asyncio.Event()
    _hold_up(monkeypatch, looked, may_go_on)
    storing = asyncio.create_task(store_again(log))
    await looked.wait()
    await log.append(new_event("e-1", received_at=AT, occurred_at=later(seconds=30)))
    (working,) = await log.claim(COMPONENTS, limit=9, lease="b", now=AT, until=later(minutes=9))
    may_go_on.set()
    await storing
    assert await erase(log, Settlement(first.id, "a", EventState.HANDLED, AT))
    assert (await detail_of(log, "e-1")).record.state is EventState.PENDING
    now, until = later(minutes=3), later(minutes=9)
    assert await log.claim(COMPONENTS, limit=9, lease="c", now=now, until=until) == [], "a handler works on the event"
    assert await settle(log, Settlement(working.id, "b", EventState.HANDLED, now))
    (again,) = await log.claim(COMPONENTS, limit=9, lease="c", now=now, until=until)
    assert again.type == "delete"
    await log.close()


async def test_it_is_a_deletion_of_its_own_when_nobody_decides(
    log: SqlEventLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def die(*_: object) -> None:
        raise EventLogUnavailable("the server is gone")

    monkeypatch.setattr(deletion, "confirm", die)
    await store_again(log)
    assert "Repeated deletes (1) are handled once more" in caplog.text
    assert await log.claim(COMPONENTS, limit=9, lease="b", now=AT, until=later(minutes=2)) == []
    (again,) = await log.claim(COMPONENTS, limit=9, lease="b", now=later(minutes=2), until=later(minutes=3))
    assert await erase(log, Settlement(again.id, "b", EventState.HANDLED, later(minutes=2)))
    assert (await detail_of(log, "d-2")).record.state is EventState.HANDLED


def _hold_up(monkeypatch: pytest.MonkeyPatch, looked: asyncio.Event, may_go_on: asyncio.Event) -> None:
    """Let the transaction that stores a delete wait before its end, once it has looked for newer events."""
    request: Callable[..., Coroutine[Any, Any, Repetition | None]] = deletion.request

    async def wait(*arguments: Any) -> Repetition | None:
        found = await request(*arguments)
        looked.set()
        await may_go_on.wait()
        return found

    monkeypatch.setattr(deletion, "request", wait)


async def test_two_processes_that_get_the_same_deletes_in_another_order_do_not_block_each_other(
    log: SqlEventLog, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.append(new_event("d-2", type="delete", person_hash="person-2"))
    database, real = Database.open(postgresql_url), deletion.request
    first_is_through, other_began = asyncio.Event(), asyncio.Event()

    async def request(connection: AsyncConnection, event_id: int, delete: NewEvent) -> Repetition | None:
        if delete.key_id == "key_2":
            await first_is_through.wait()
        repetition = await real(connection, event_id, delete)
        first_is_through.set()
        if delete.key_id == "key_1":
            while not (other_began.is_set() or await _somebody_waits(log)):  # noqa: ASYNC110  it waits in the server
                await asyncio.sleep(0.01)
        else:
            other_began.set()
        return repetition

    async def store(key_id: str, people: Sequence[str]) -> int:
        again = {"type": "delete", "received_at": AT, "occurred_at": AT, "key_id": key_id, "scope": key_id}
        events = [new_event(f"d-{person}", person_hash=person, **again) for person in people]
        async with database.engine.begin() as connection:
            _, repetitions = await appending.append(connection, events, ReplayPolicy.HOLD)
        return len(repetitions)

    monkeypatch.setattr(deletion, "request", request)
    people = ["person-1", "person-2"]
    first, second = await asyncio.gather(store("key_1", people), store("key_2", people[::-1]))
    assert (first, second) == (2, 2)
    await database.close()


async def _somebody_waits(log: SqlEventLog) -> bool:
    async with log._database.engine.connect() as connection:
        waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')"
        return bool((await connection.exec_driver_sql(waiting)).scalar_one())
