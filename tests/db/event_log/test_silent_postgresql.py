"""A PostgreSQL that goes silent on a connection is waited for no longer than is useful, and asked on another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy import func, select

from enable_with_segment.db import postgresql_connection
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log import opening
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.postgresql import group_inserter, partitions
from enable_with_segment.db.event_log.postgresql import log as sql
from enable_with_segment.db.event_log.records import EventLogUnavailable, NewEvent, Settlement
from enable_with_segment.db.event_log.states import EventState
from tests.db.event_log.events import COMPONENTS, NOON, later, new_event
from tests.relay import Relay, relayed

BRIEFLY = 0.2
GIVES_UP = 60
"""Only what waits for good takes so long."""


@pytest.fixture
async def way(postgresql_url: str) -> AsyncIterator[tuple[Relay, str]]:
    async with relayed(postgresql_url) as (relay, url):
        yield relay, url


@pytest.fixture
async def relay(way: tuple[Relay, str]) -> Relay:
    return way[0]


@pytest.fixture
async def log(way: tuple[Relay, str]) -> AsyncIterator[StoredEventLog]:
    opened = open_event_log(way[1])
    yield opened
    async with asyncio.timeout(GIVES_UP):
        await opened.close()


async def store(log: StoredEventLog, *events: NewEvent) -> list[object]:
    async with asyncio.timeout(GIVES_UP):
        return [type(answer) for answer in await asyncio.gather(*map(log.append, events), return_exceptions=True)]


async def test_a_group_that_gets_no_answer_is_refused_and_the_next_is_stored(
    log: StoredEventLog, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.append(new_event("m-1"))
    relay.silence()
    monkeypatch.setattr(postgresql_connection, "_ALIVE_SECONDS", BRIEFLY)
    with monkeypatch.context() as patched:
        patched.setattr(group_inserter, "_ANSWER_SECONDS", BRIEFLY)
        assert await store(log, new_event("m-2"), new_event("m-3")) == [EventLogUnavailable] * 2
    async with asyncio.timeout(GIVES_UP):
        assert [(await log.append(new_event(message))).duplicate for message in ("m-1", "m-2")] == [True, False]


async def claim(log: StoredEventLog) -> object:
    return await log.claim(COMPONENTS, limit=1, lease="a", now=NOON, until=later(minutes=1))


async def settle(log: StoredEventLog) -> object:
    return await log.settle_all([Settlement(1, "a", EventState.HANDLED, NOON)])


async def renew(log: StoredEventLog) -> None:
    await log.renew("a", [1], until=later(minutes=1))


async def delete(log: StoredEventLog) -> object:
    return await log.append(new_event("m-2", type="delete"))


async def backlog(log: StoredEventLog) -> object:
    return await log.backlog()


async def drop(log: StoredEventLog) -> object:
    return await log.drop_before(NOON)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (claim, b"SKIP LOCKED"),
        (claim, b"COMMIT"),
        (settle, b"UPDATE events"),
        (renew, b"UPDATE events"),
        (delete, b"COMMIT"),
        (backlog, b"SELECT"),
        (drop, b"SELECT"),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else value.__name__,
)
async def test_a_transaction_that_gets_no_answer_fails_and_the_next_one_succeeds(
    log: StoredEventLog,
    relay: Relay,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[StoredEventLog], Awaitable[object]],
    words: bytes,
) -> None:
    await log.append(new_event("m-1"))
    monkeypatch.setattr(postgresql_connection, "_ALIVE_SECONDS", BRIEFLY)
    relay.silence_at(words)
    with monkeypatch.context() as patched:
        for seconds in ("_SECONDS", "_DELETE_SECONDS", "_LONG_SECONDS", "_RETENTION_SECONDS"):
            patched.setattr(sql, seconds, BRIEFLY)
        with pytest.raises(EventLogUnavailable):
            async with asyncio.timeout(GIVES_UP):
                await act(log)
    relay.silence()
    relay.hang_up()
    async with asyncio.timeout(GIVES_UP):
        await act(log)


async def test_making_partitions_has_an_end(log: StoredEventLog, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    relay.silence_at(b"pg_advisory_xact_lock")
    with monkeypatch.context() as patched:
        patched.setattr(partitions, "_SECONDS", BRIEFLY)
        assert await store(log, new_event("m-1")) == [EventLogUnavailable]
    relay.silence()
    async with asyncio.timeout(GIVES_UP):
        assert not (await log.append(new_event("m-1"))).duplicate


async def test_one_silent_connection_is_enough_to_give_all_of_them_up(
    way: tuple[Relay, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    relay, url = way
    database = Database.open(url)
    try:
        before = await everybody(database)
        relay.silence()
        looked = 0
        give_a_sign = postgresql_connection._give_a_sign

        async def look(connection: postgresql_connection.PostgresqlConnection) -> None:
            nonlocal looked
            looked += 1
            await give_a_sign(connection)

        monkeypatch.setattr(postgresql_connection, "_give_a_sign", look)
        monkeypatch.setattr(postgresql_connection, "_ALIVE_SECONDS", BRIEFLY)
        async with asyncio.timeout(GIVES_UP):
            async with database.engine.connect():
                pass
            monkeypatch.setattr(postgresql_connection, "_ALIVE_SECONDS", GIVES_UP)
            assert not before & await everybody(database)
        assert looked <= 2
    finally:
        async with asyncio.timeout(GIVES_UP):
            await database.close()


async def test_silent_connections_are_closed_without_a_word_from_the_server(way: tuple[Relay, str]) -> None:
    relay, url = way
    database = Database.open(url)
    await everybody(database)
    relay.silence()
    async with asyncio.timeout(GIVES_UP):
        await database.close()


async def test_connections_that_the_server_has_closed_are_replaced_unnoticed(postgresql_url: str) -> None:
    database, beside = Database.open(postgresql_url), Database.open(postgresql_url)
    try:
        before = await everybody(database)
        async with beside.engine.connect() as other:
            for pid in before:
                await other.execute(select(func.pg_terminate_backend(pid, 60_000)))
        assert not before & await everybody(database)
    finally:
        await beside.close()
        await database.close()


async def everybody(database: Database) -> set[int]:
    """Use all pooled connections at once; returns who is at their other ends."""
    async with database.engine.connect() as one, database.engine.connect() as two, database.engine.connect() as three:
        return {(await each.execute(select(func.pg_backend_pid()))).scalar_one() for each in (one, two, three)}


async def test_what_a_process_left_unfinished_is_ended_by_the_server(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_SILENCE", "50ms")
    log, beside = open_event_log(postgresql_url), Database.open(postgresql_url)
    assert isinstance(log, sql.SqlEventLog)
    lock = "LOCK TABLE events"
    try:
        async with log._database.engine.connect() as left:
            await left.exec_driver_sql(lock)
            async with asyncio.timeout(GIVES_UP), beside.engine.begin() as other:
                await other.exec_driver_sql(lock)
            await left.invalidate()
    finally:
        await beside.close()
        await log.close()
