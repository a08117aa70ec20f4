"""A real event log on both engines, and events to put into it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from db.database import Database
from db.event_log.sql import SqlEventLog
from db.migrate import migrate


@pytest.fixture
async def event_log(database_url: str) -> AsyncIterator[SqlEventLog]:
    """A migrated, empty event log; a test that uses it runs once on SQLite and once on PostgreSQL."""
    database = Database.open(database_url)
    await migrate(database, "event_log")
    log = SqlEventLog(database)
    yield log
    await log.close()
    await database.close()
