"""An event log that stores nothing."""

from __future__ import annotations

import asyncio

from enable_with_segment.db.event_log.records import Appended, NewEvent
from enable_with_segment.db.event_log.sqlite import SqliteEventLog


class BrokenLog(SqliteEventLog):
    """Appending raises the problem; without a problem it never comes to an end."""

    def __init__(self, problem: BaseException | None) -> None:
        self._problem = problem

    async def append(self, event: NewEvent) -> Appended:  # noqa: ARG002  it never gets that far
        if self._problem is None:
            await asyncio.Event().wait()
        raise self._problem or AssertionError
