"""A real event log on both engines, and events to put into it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from tests.db.event_log.events import SMALL


@pytest.fixture
async def event_log(database_url: str) -> AsyncIterator[StoredEventLog]:
    """An empty event log; a test that uses it runs once on SQLite and once on PostgreSQL."""
    log = open_event_log(database_url.replace("control.db", "events.db"))
    yield log
    await log.close()


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    """A SQLite log, ``events.db``, that begins a new segment every ten events."""
    log = SqliteEventLog(tmp_path / "events.db", limits=SMALL)
    yield log
    await log.close()
