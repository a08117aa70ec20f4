"""Opening a store: the URLs, and what a transaction promises."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError, StatementError

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import accounts, connect_links
from enable_with_segment.db.control.tables import Account
from enable_with_segment.db.database import Database, parse_url
from enable_with_segment.db.sqlite_connection import SqliteConnection
from enable_with_segment.db.store_url import DatabaseUrlInvalid


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///data/control.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:///data/control.db", "sqlite+aiosqlite"),
        ("postgresql://u:p@localhost/db", "postgresql+asyncpg"),
        ("postgresql+asyncpg://u:p@localhost/db", "postgresql+asyncpg"),
        ("postgresql+psycopg2://u:p@localhost/db", "postgresql+asyncpg"),
        ("postgres://u:p@localhost/db", "postgresql+asyncpg"),
    ],
)
def test_every_spelling_gets_the_driver_we_ship(url: str, driver: str) -> None:
    assert parse_url(url).drivername == driver


@pytest.mark.parametrize(
    "url", ["", "control.db", "mysql://u:hunter2@h/db", "oracle://u:hunter2@h", "sqlite//x", "://"]
)
def test_another_url_is_refused_with_the_forms_that_work_and_no_password(url: str) -> None:
    with pytest.raises(DatabaseUrlInvalid, match="postgresql\\+asyncpg://user:password@host/name") as caught:
        Database.open(url)
    assert "hunter2" not in str(caught.value)


async def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    database = Database.open(f"sqlite+aiosqlite:///{tmp_path}/deep/er/control.db")
    async with database.engine.connect() as connection:
        mode = (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one()
        synchronous = (await connection.exec_driver_sql("PRAGMA synchronous")).scalar_one()
    assert (mode, synchronous) == ("delete", 2)
    assert (tmp_path / "deep" / "er" / "control.db").exists()
    await database.close()


async def test_a_transaction_commits_on_a_clean_exit_only(database: Database) -> None:
    async with database.transaction() as session:
        await accounts.ensure(session, "kept", now=utc_now())

    async def fail() -> None:
        async with database.transaction() as session:
            await accounts.ensure(session, "lost", now=utc_now())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    async with database.transaction() as session:
        assert await session.get(Account, "kept") is not None
        assert await session.get(Account, "lost") is None


async def test_instants_come_back_aware_and_in_utc(database: Database) -> None:
    summer = datetime(2026, 7, 1, 12, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    async with database.transaction() as session:
        session.add(Account(id="northwind", created_at=summer))
    async with database.transaction() as session:
        found = await session.get(Account, "northwind")
    assert found is not None
    assert found.created_at == summer
    assert found.created_at.tzinfo is UTC


async def test_a_naive_instant_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="naive"):
        async with database.transaction() as session:
            session.add(Account(id="northwind", created_at=datetime(2026, 7, 1)))  # noqa: DTZ001  # naive on purpose


async def test_an_unknown_account_cannot_be_suspended(database: Database) -> None:
    with pytest.raises(KeyError):
        async with database.transaction() as session:
            await accounts.set_suspended(session, "nobody", utc_now())


async def test_an_error_does_not_repeat_what_a_statement_was_given(database: Database) -> None:
    async with database.transaction() as session:
        await accounts.ensure(session, "northwind", now=utc_now())
    await _add_link(database)
    with pytest.raises(IntegrityError) as caught:
        await _add_link(database)
    assert "hunter2" not in str(caught.value)


async def _add_link(database: Database) -> None:
    async with database.transaction() as session:
        await connect_links.add(
            session,
            "the-same-token",
            account="northwind",
            component="acme-crm",
            return_to="/hunter2",
            settings={"password": "hunter2"},
            now=utc_now(),
            expires_at=utc_now(),
        )


async def test_a_cancelled_transaction_leaves_sqlite_unlocked_while_its_traceback_lives(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """What a timeout or a stopping service does: it cancels between the running of a SELECT and the fetching."""
    loop = asyncio.get_running_loop()

    async def read_and_be_cancelled() -> asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with sqlite_database.transaction() as session:
                await accounts.ensure(session, "lost", now=utc_now())
                await session.flush()
                connection = await session.connection()
                raw: Any = (await connection.get_raw_connection()).driver_connection
                await raw.create_function("cancel", 0, lambda: bool(loop.call_soon_threadsafe(task.cancel)))
                await connection.exec_driver_sql("SELECT cancel() UNION ALL SELECT 2")
        except asyncio.CancelledError as cancelled:
            return cancelled
        pytest.fail("the SELECT was not cancelled")

    cancelled = await asyncio.create_task(read_and_be_cancelled())
    assert cancelled.__traceback__ is not None
    with closing(sqlite3.connect(tmp_path / "control.db", timeout=0, isolation_level=None)) as another:
        another.execute("BEGIN EXCLUSIVE")
        assert another.execute("SELECT count(*) FROM accounts").fetchone() == (0,)
        another.execute("ROLLBACK")
    async with sqlite_database.transaction() as session:
        await accounts.ensure(session, "kept", now=utc_now())


async def test_a_closed_sqlite_connection_lets_go_of_the_file_while_a_cursor_is_half_read(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path, factory=SqliteConnection)
    connection.execute("CREATE TABLE numbers (number INTEGER)")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO numbers VALUES (1), (2)")
    half_read = connection.execute("SELECT number FROM numbers")
    assert half_read.fetchone() == (1,)
    connection.close()
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as another:
        another.execute("BEGIN EXCLUSIVE")
        assert another.execute("SELECT count(*) FROM numbers").fetchone() == (0,)
    with pytest.raises(sqlite3.ProgrammingError):
        half_read.fetchone()
