"""The partitions of the event log in PostgreSQL: made ahead of the events, one begun each day, found by their ids.

``events``, ``bodies`` and ``handler_outcomes`` are cut by event id at the same places. An id says which partition
an event is in, so that looking one up costs the same however long the log is, and forgetting the oldest events is
dropping three tables. A new day begins a new partition by letting the sequence of ids jump to its first one.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import SegmentLimits

TABLES = ("events", "bodies", "handler_outcomes")

#: Ids that are always covered beyond the newest event, so that a group never finds itself without a partition.
_AHEAD = 2_000
#: Longer than those who wait for the next events do: what is made for the first of them is there for the others.
_SECONDS = 10.0
_LOCK = 732118440002
_DIGITS = 15
_BOUNDS = re.compile(r"FROM \('(\d+)'\) TO \('(\d+)'\)")


@dataclass(frozen=True, slots=True)
class Partition:
    """The tables of the events from ``first_id`` up to, but without, ``end_id``."""

    first_id: int
    end_id: int

    def table(self, name: str) -> str:
        """Return the name of its part of a table."""
        return f"{name}_{self.first_id:0{_DIGITS}}"


async def find(connection: AsyncConnection) -> list[Partition]:
    """Return all partitions, the oldest first."""
    rows = await connection.exec_driver_sql(
        "SELECT pg_get_expr(part.relpartbound, part.oid) FROM pg_inherits JOIN pg_class part ON part.oid = inhrelid"
        " WHERE inhparent = 'events'::regclass"
    )
    bounds = [match for (text,) in rows.all() if (match := _BOUNDS.search(text))]
    return sorted((Partition(int(first), int(end)) for first, end in (found.groups() for found in bounds)), key=_first)


async def next_id(connection: AsyncConnection) -> int:
    """Return the id that the next event gets."""
    row = (await connection.exec_driver_sql("SELECT last_value + is_called::int FROM event_ids")).one()
    return int(row[0])


class Runway:
    """Knows, without asking each time, that there are partitions for the next events; makes them when there aren't."""

    def __init__(self, database: Database, limits: SegmentLimits) -> None:
        self._database = database
        self._age = limits.age
        self._step = max(limits.events, 2 * _AHEAD)
        self._active_end = self._last_end = 0
        self._begun: datetime | None = None
        self._is_known = False
        self._making = asyncio.Lock()

    async def prepare(self, now: datetime) -> None:
        """Make sure that the next events have a partition, and begin a new one when the newest is old.

        Raises:
            TimeoutError: the server took too long.
        """
        if self._is_known and not self._is_old(now):
            return
        async with asyncio.timeout(_SECONDS), self._making:
            if self._is_known and not self._is_old(now):
                return  # somebody else saw to it meanwhile
            await self._extend()
            if self._is_old(now):
                await self._begin_another()
                await self._extend()

    def noticed(self, event_id: int, received_at: datetime) -> None:
        """Take note of an event that was stored."""
        if self._begun is None:
            self._begun = received_at
        if event_id >= self._active_end or event_id + _AHEAD > self._last_end:
            self._is_known = False

    def forget(self) -> None:
        """Look again before the next events: something was not as it was known."""
        self._is_known = False

    def _is_old(self, now: datetime) -> bool:
        return self._begun is not None and now - self._begun >= self._age

    async def _extend(self) -> None:
        async with self._database.engine.begin() as connection:
            await _lock(connection)
            upcoming = await next_id(connection)
            ends = [partition.end_id for partition in await find(connection)] or [1]
            active_end = next((end for end in ends if end > upcoming), None)
            while active_end is None or ends[-1] == active_end or ends[-1] < upcoming + 2 * _AHEAD:
                await _make(connection, Partition(ends[-1], ends[-1] + self._step))
                ends.append(ends[-1] + self._step)
                active_end = active_end or (ends[-1] if ends[-1] > upcoming else None)
            newest = await connection.exec_driver_sql(
                "SELECT received_at FROM events WHERE id >= $1 AND id < $2 ORDER BY id LIMIT 1",
                (max((end for end in ends if end <= upcoming), default=1), active_end),
            )
            self._begun = newest.scalar()
        self._active_end, self._last_end, self._is_known = active_end, ends[-1], True

    async def _begin_another(self) -> None:
        async with self._database.engine.begin() as connection:
            await _lock(connection)
            # Not when the partition is nearly full: another process could be past its end by now.
            if await next_id(connection) + _AHEAD <= self._active_end:
                await connection.exec_driver_sql("SELECT setval('event_ids', $1, false)", (self._active_end,))
                self._begun = None


async def _make(connection: AsyncConnection, partition: Partition) -> None:
    # Attached rather than created in place, which would lock out everybody who reads or writes the log.
    for name in TABLES:
        table = partition.table(name)
        await connection.exec_driver_sql(f"CREATE TABLE {table} (LIKE {name} INCLUDING DEFAULTS)")
        await connection.exec_driver_sql(
            f"ALTER TABLE {name} ATTACH PARTITION {table}"
            f" FOR VALUES FROM ({partition.first_id}) TO ({partition.end_id})"
        )


async def _lock(connection: AsyncConnection) -> None:
    await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _first(partition: Partition) -> int:
    return partition.first_id
