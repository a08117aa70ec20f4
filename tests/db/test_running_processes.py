"""Processes that say they run, on both engines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import func
from sqlmodel import select

from enable_with_segment.db.control import heartbeats as running_processes
from enable_with_segment.db.control.tables import RunningProcess
from enable_with_segment.db.database import Database

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


async def _note(database: Database, process_id: str, at: datetime, *key_ids: str) -> None:
    async with database.transaction() as session:
        await running_processes.note(session, process_id, role="web", key_ids=key_ids, started_at=NOW, now=at)


async def _live(database: Database, at: datetime) -> dict[str, list[str]]:
    async with database.transaction() as session:
        return {process.id: process.key_ids for process in await running_processes.live(session, now=at)}


async def test_a_process_is_live_for_a_minute_after_it_said_so(database: Database) -> None:
    await _note(database, "host:1:a", NOW, "old")
    await _note(database, "host:2:b", NOW + timedelta(seconds=30), "old", "new")
    assert await _live(database, NOW + timedelta(seconds=31)) == {"host:1:a": ["old"], "host:2:b": ["old", "new"]}
    assert await _live(database, NOW + timedelta(seconds=60)) == {"host:2:b": ["old", "new"]}
    await _note(database, "host:1:a", NOW + timedelta(seconds=70), "old")
    assert set(await _live(database, NOW + timedelta(seconds=80))) == {"host:1:a", "host:2:b"}


async def test_a_process_that_ends_is_forgotten_at_once(database: Database) -> None:
    await _note(database, "host:1:a", NOW, "old")
    async with database.transaction() as session:
        await running_processes.forget(session, "host:1:a")
        await running_processes.forget(session, "host:1:a")
    assert await _live(database, NOW) == {}


async def test_crashes_leave_nothing_for_good(database: Database) -> None:
    for number in range(5):
        await _note(database, f"host:{number}:x", NOW, "old")
    await _note(database, "host:9:y", NOW + timedelta(days=1, seconds=1), "old")
    async with database.transaction() as session:
        assert (await session.exec(select(func.count()).select_from(RunningProcess))).one() == 1
