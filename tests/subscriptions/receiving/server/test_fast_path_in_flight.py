"""Deliveries that were taken and are not answered yet: PostgreSQL is held up by another session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from enable_with_segment.subscriptions.receiving.concurrency_limit import ConcurrencyLimit
from tests.subscriptions.receiving.server.door import Door, open_door, stored, until, warm


class HeldLog:
    """PostgreSQL, where another session holds up whoever stores events."""

    def __init__(self, door: Door, session: asyncpg.Connection) -> None:
        self.door = door
        self._session = session

    async def hold(self) -> None:
        await self._session.execute("BEGIN; LOCK TABLE message_keys IN EXCLUSIVE MODE")

    async def let_go(self) -> None:
        await self._session.execute("ROLLBACK")


@pytest.fixture
async def held(tmp_path: Path, postgresql_url: str) -> AsyncIterator[HeldLog]:
    url = make_url(postgresql_url)
    session = await asyncpg.connect(host=str(url.query["host"]), user="postgres", database=url.database)
    try:
        async with open_door(tmp_path, environment={"event_log_url": postgresql_url}) as door:
            yield HeldLog(door, session)
    finally:
        await session.close()


async def in_hand(limit: ConcurrencyLimit, count: int) -> None:
    await until(lambda: limit.running == count)


async def test_a_store_that_hangs_is_answered_503_in_time(held: HeldLog) -> None:
    door = held.door
    door.stop_the_clocks()
    connection = await warm(door)
    fast_path = door.service.app.fast_path  # type: ignore[attr-defined]
    fast_path.store_seconds = 0.3
    await held.hold()
    made = door.requests_made
    refused = await connection.ask(door.delivery("late"))
    assert (refused.status, refused.headers["retry-after"]) == (503, "10")
    assert door.requests_made == made
    fast_path.store_seconds = 20
    await held.let_go()
    assert (await connection.ask(door.delivery("late"))).status == 202
    assert (await stored(door)).count("late") == 1
    assert door.refusal.concurrency_limit.running == 0


async def test_a_store_that_is_gone_is_503_and_comes_back(held: HeldLog) -> None:
    door = held.door
    connection = await warm(door)
    await held._session.execute("ALTER TABLE message_keys RENAME TO elsewhere")
    refused = await connection.ask(door.delivery("lost?"))
    assert (refused.status, "Try again" in refused.body.decode()) == (503, True)
    await held._session.execute("ALTER TABLE elsewhere RENAME TO message_keys")
    assert (await connection.ask(door.delivery("lost?"))).status == 202
    assert "lost?" in await stored(door)


async def test_a_sender_who_goes_away_meanwhile_leaves_its_event(held: HeldLog) -> None:
    door = held.door
    connection = await warm(door)
    limit = door.refusal.concurrency_limit
    await held.hold()
    connection.writer.write(door.delivery("gone"))
    await in_hand(limit, 1)
    connection.writer.close()
    await until(lambda: not door.server.server_state.connections)
    await held.let_go()
    await in_hand(limit, 0)
    assert "gone" in await stored(door)
    assert door.counted()["acme-crm", "202"] == 3


async def test_a_stop_waits_for_what_was_taken_and_closes_the_connection(held: HeldLog) -> None:
    door = held.door
    connection, idle = await warm(door), await door.connect()
    await held.hold()
    connection.writer.write(door.delivery("at the end"))
    await in_hand(door.refusal.concurrency_limit, 1)
    door.server.should_exit = True
    assert await idle.is_closed()
    await held.let_go()
    answer = await connection.answer()
    assert (answer.status, answer.headers["connection"]) == (202, "close")
    assert await connection.is_closed()
    assert "at the end" in await stored(door)


async def test_what_comes_behind_one_in_hand_waits_for_its_turn(held: HeldLog) -> None:
    door = held.door
    connection = await warm(door)
    await held.hold()
    connection.writer.write(door.delivery("first"))
    await in_hand(door.refusal.concurrency_limit, 1)
    connection.writer.write(b"GET /healthz HTTP/1.1\r\nHost: service\r\n\r\n" + door.delivery("second"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await connection.reader.readexactly(1)
    await held.let_go()
    assert [(await connection.answer()).status for _ in range(3)] == [202, 200, 202]
    assert (await stored(door))[2:] == ["first", "second"]


async def test_what_is_in_hand_counts(held: HeldLog) -> None:
    door = held.door
    await warm(door)
    limit = door.refusal.concurrency_limit
    connections = [await door.connect() for _ in range(5)]
    await held.hold()
    limit.most = 3
    for number, connection in enumerate(connections):
        connection.writer.write(door.delivery(f"m-{number}"))
        await until(lambda number=number: limit.running == min(number + 1, 3))  # type: ignore[misc]
    answers = [(await connection.answer()).status for connection in connections[3:]]
    assert answers == [503, 503]
    await held.let_go()
    assert {(await connection.answer()).status for connection in connections[:3]} == {202}
    assert limit.running == 0


async def test_garbage_behind_a_delivery_is_not_the_answer_to_it(held: HeldLog) -> None:
    door = held.door
    door.stop_the_clocks()
    connection = await warm(door)
    await held.hold()
    connection.writer.write(door.delivery("before garbage") + b"garbage\r\n\r\n")
    await in_hand(door.refusal.concurrency_limit, 1)
    await held.let_go()
    answer = await connection.answer()
    assert (answer.status, answer.headers["connection"]) == (202, "close")
    assert await connection.is_closed()
    assert "before garbage" in await stored(door)
