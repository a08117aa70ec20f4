"""Reads that come in time while the event loop has much to do."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, literal, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from enable_with_segment.db import quick_reads
from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import accounts
from enable_with_segment.db.control.tables import Account
from enable_with_segment.db.database import Database
from enable_with_segment.db.sqlite_connection import ImpatientSqliteConnection, SqliteConnection
from tests.relay import relayed

ACCOUNTS = select(Account).order_by("id")
BACKEND = select(func.pg_backend_pid())


async def ids(database: Database) -> list[str]:
    return [account.id for (account,) in await database.reads.rows(ACCOUNTS)]


async def test_they_see_what_is_committed_and_nothing_else(database: Database) -> None:
    assert await ids(database) == []
    async with database.transaction() as session:
        await accounts.ensure(session, "northwind", now=utc_now())
        assert await ids(database) == []
    assert await ids(database) == ["northwind"]
    async with database.transaction() as session:
        await accounts.ensure(session, "globex", now=utc_now())
    assert await ids(database) == ["globex", "northwind"]


async def test_many_at_once_are_all_answered(database: Database) -> None:
    async with database.transaction() as session:
        await accounts.ensure(session, "northwind", now=utc_now())
    assert await asyncio.gather(*(ids(database) for _ in range(50))) == [["northwind"]] * 50


async def test_a_file_is_read_in_one_go_of_the_loop(sqlite_database: Database) -> None:
    reading = asyncio.create_task(ids(sqlite_database))
    await asyncio.sleep(0)
    assert reading.done()


async def test_while_another_program_commits_the_loop_goes_on(sqlite_database: Database, tmp_path: Path) -> None:
    await ids(sqlite_database)
    with closing(sqlite3.connect(tmp_path / "control.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        reading = asyncio.create_task(ids(sqlite_database))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not reading.done()
        other.execute("COMMIT")
        async with asyncio.timeout(10):
            assert await reading == []


async def test_a_file_that_stays_locked_is_an_error_in_the_end(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick_reads, "_PATIENCE_SECONDS", 0.05)
    with closing(sqlite3.connect(tmp_path / "control.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OperationalError, match="locked"):
            await ids(sqlite_database)
        other.execute("ROLLBACK")
    assert await ids(sqlite_database) == []


async def test_a_store_without_tables_is_an_error_at_once(empty_database_url: str) -> None:
    database = Database.open(empty_database_url)
    with pytest.raises(SQLAlchemyError):
        await ids(database)
    await database.close()


async def test_a_connection_that_broke_meanwhile_is_replaced(postgresql_url: str) -> None:
    database = Database.open(postgresql_url)
    try:
        (me,) = (await database.reads.rows(BACKEND))[0]
        assert (await database.reads.rows(BACKEND))[0] == (me,)
        async with database.transaction() as session:
            await (await session.connection()).execute(select(func.pg_terminate_backend(me)))
        async with asyncio.timeout(10):
            assert (await database.reads.rows(BACKEND))[0] != (me,)
    finally:
        await database.close()


async def test_a_statement_that_fails_breaks_no_other(postgresql_url: str) -> None:
    database = Database.open(postgresql_url)
    try:
        with pytest.raises(SQLAlchemyError):
            await database.reads.rows(select(literal(1) / literal(0)))
        reading = asyncio.create_task(database.reads.rows(select(func.pg_sleep(60))))
        await asyncio.sleep(0.05)
        reading.cancel()
        assert await ids(database) == []
    finally:
        await database.close()


async def test_nothing_holds_the_file_after_a_read(sqlite_database: Database, tmp_path: Path) -> None:
    await ids(sqlite_database)
    with closing(sqlite3.connect(tmp_path / "control.db", isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("ROLLBACK")


async def test_a_server_that_is_gone_without_a_word_is_waited_for_no_longer_than_is_useful(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relayed(postgresql_url) as (relay, url):
        database = Database.open(url)
        try:
            before = (await database.reads.rows(BACKEND))[0]
            relay.silence()
            monkeypatch.setattr(quick_reads, "_ANSWER_SECONDS", 0.2)
            with pytest.raises(TimeoutError):
                await database.reads.rows(BACKEND)
            monkeypatch.setattr(quick_reads, "_ANSWER_SECONDS", 10)
            assert (await database.reads.rows(BACKEND))[0] != before
        finally:
            await database.close()


async def test_a_file_that_was_locked_when_it_was_opened_is_not_held_open(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[ImpatientSqliteConnection] = []

    def close(connection: ImpatientSqliteConnection) -> None:
        SqliteConnection.close(connection)
        closed.append(connection)

    monkeypatch.setattr(ImpatientSqliteConnection, "close", close)
    with closing(sqlite3.connect(tmp_path / "control.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        reading = asyncio.create_task(ids(sqlite_database))
        await asyncio.sleep(0)
        assert len(closed) == 1
        other.execute("COMMIT")
        assert await reading == []
