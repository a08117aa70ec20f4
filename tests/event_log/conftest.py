"""A real event log on both engines, and events to put into it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from db.event_log.log import StoredEventLog
from db.event_log.opening import open_event_log


@pytest.fixture
async def event_log(database_url: str) -> AsyncIterator[StoredEventLog]:
    """An empty event log; a test that uses it runs once on SQLite and once on PostgreSQL."""
    log = open_event_log(database_url.replace("control.db", "events.db"))
    yield log
    await log.close()
