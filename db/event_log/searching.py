"""How far back one question of an operator looks, and how the answer is put together.

Some questions no index answers: a filter by account or type may match nothing for millions of events. So a search looks
through a bounded number of the newest events and says where it stopped; whoever wants to see older ones asks again from
there. It goes in steps, between which others get their turn: on SQLite it runs inside the event loop that receives. On
PostgreSQL, where it may have to wait for the disk at every row, it stops early when that takes long.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from enable_with_segment.db.event_log.records import EventPage, EventRecord

#: One step of a search: the next page of at most so many events (the second number) from those below an id.
Step = Callable[[int | None, int], Awaitable[EventPage]]


@dataclass(frozen=True, slots=True)
class SearchBounds:
    """How many events are looked at in one step, and how many steps one search takes.

    Attributes:
        seconds: after so long it takes no further step.
    """

    events_in_step: int
    steps: int
    seconds: float = math.inf


async def search(
    step: Step,
    bounds: SearchBounds,
    *,
    limit: int,
    before_id: int | None,
    clock: Callable[[], float] = time.monotonic,
) -> EventPage:
    """Take steps until the page is full, the bounds are reached, or the log comes to its end.

    Args:
        clock: seconds.
    """
    until = clock() + bounds.seconds
    page = await step(before_id, limit)
    records = [*page.records]
    for _ in range(bounds.steps - 1):
        if page.before_id is None or len(records) >= limit or clock() >= until:
            break
        await asyncio.sleep(0)
        page = await step(page.before_id, limit - len(records))
        records += page.records
    return EventPage(tuple(records), page.before_id, page.back_to)


async def find(step: Step, *, limit: int) -> list[EventRecord]:
    """Take steps until there are enough events or the log comes to its end."""
    page = await step(None, limit)
    records = [*page.records]
    while page.before_id is not None and len(records) < limit:
        await asyncio.sleep(0)
        page = await step(page.before_id, limit - len(records))
        records += page.records
    return records
