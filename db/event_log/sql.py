"""The event log over PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from db.database import Database
from db.event_log import appending, browsing, claiming, erasing, replaying
from db.event_log.array_inserter import ArrayInserter
from db.event_log.group_commit import GroupCommit
from db.event_log.records import (
    Appended,
    Backlog,
    ClaimedEvent,
    ErasureReport,
    EventCounts,
    EventDetail,
    EventFilter,
    EventLogOutdated,
    EventLogUnavailable,
    EventRecord,
    NewEvent,
    Predecessor,
    Proof,
    ReplayPolicy,
    Settlement,
)
from db.migrate import is_current

_FAILURES = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)

#: What PostgreSQL says about a row, not about itself: the row's neighbours can be stored all the same.
_REFUSALS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)


class SqlEventLog:
    """Implements ``EventLog`` and ``EventArchive``. The database has to be migrated (store ``event_log``)."""

    def __init__(self, database: Database, *, replays: ReplayPolicy = ReplayPolicy.HOLD) -> None:
        self._database = database
        self._replays = replays
        self._inserter = ArrayInserter(database) if database.dialect == "postgresql" else None
        self._appends: GroupCommit[NewEvent, Appended] = GroupCommit(self._append)
        self._settlements: GroupCommit[Settlement, bool] = GroupCommit(self._settle)

    async def append(self, event: NewEvent) -> Appended:
        return await self._appends.submit(event)

    async def claim(
        self,
        components: Collection[str],
        *,
        limit: int,
        lease: str,
        now: datetime,
        until: datetime,
        skip: Collection[str] = (),
    ) -> list[ClaimedEvent]:
        async with self._transaction() as connection:
            return await claiming.claim(
                connection, components, limit=limit, lease=lease, now=now, until=until, skip=skip
            )

    async def renew(self, lease: str, event_ids: Sequence[int], *, until: datetime) -> None:
        async with self._transaction() as connection:
            await claiming.renew(connection, lease, event_ids, until=until)

    async def release(self, lease: str, event_ids: Sequence[int]) -> None:
        async with self._transaction() as connection:
            await claiming.release(connection, lease, event_ids)

    async def settle(self, settlement: Settlement) -> bool:
        return await self._settlements.submit(settlement)

    async def erase(self, settlement: Settlement) -> ErasureReport | None:
        async with self._transaction() as connection:
            if not all(await claiming.settle(connection, [settlement])):
                return None
            return await erasing.wipe(connection, settlement.event_id, now=settlement.at)

    async def due(self, components: Collection[str], *, now: datetime) -> int:
        async with self._transaction() as connection:
            return await claiming.count_due(connection, now, components)

    async def find(self, wanted: EventFilter, *, limit: int = 100) -> list[EventRecord]:
        async with self._transaction() as connection:
            return await browsing.find(connection, wanted, limit=limit)

    async def tail(self, after_id: int, wanted: EventFilter, *, limit: int = 100) -> list[EventRecord]:
        async with self._transaction() as connection:
            return await browsing.tail(connection, after_id, wanted, limit=limit)

    async def show(self, message_id: str) -> list[EventDetail]:
        async with self._transaction() as connection:
            return await browsing.show(connection, message_id)

    async def prove(self, message_ids: Sequence[str]) -> Proof:
        async with self._transaction() as connection:
            return await browsing.prove(connection, message_ids)

    async def retry_dead_letters(self, event_ids: Sequence[int] | None, *, now: datetime) -> int:
        async with self._transaction() as connection:
            return await browsing.retry_dead_letters(connection, event_ids, now=now)

    async def revive(self, event_ids: Sequence[int], *, handler: str | None, now: datetime) -> int:
        async with self._transaction() as connection:
            return await replaying.revive(connection, event_ids, handler=handler, now=now)

    async def hasten(self, component: str, *, now: datetime, limit: int = 1_000) -> int:
        async with self._transaction() as connection:
            return await replaying.hasten(connection, component, now=now, limit=limit)

    async def predecessors(self, event_ids: Sequence[int]) -> Mapping[int, Sequence[Predecessor]]:
        async with self._transaction() as connection:
            return await replaying.predecessors(connection, event_ids)

    async def counts(self, now: datetime) -> EventCounts:
        async with self._transaction() as connection:
            return await browsing.counts(connection, now)

    async def backlog(self) -> Backlog:
        async with self._transaction() as connection:
            return await browsing.backlog(connection)

    async def check(self) -> None:
        try:
            current = await is_current(self._database, "event_log")
        except (SQLAlchemyError, OSError) as error:
            raise _unavailable(error) from error
        if not current:
            raise EventLogOutdated(
                "the event log in PostgreSQL is not at the newest schema; run: enable-with-segment migrate"
            )

    async def drop_before(self, instant: datetime) -> int:
        dropped = 0
        while True:
            async with self._transaction() as connection:
                part = await browsing.drop_before(connection, instant)
            if not part:
                return dropped
            dropped += part

    async def close(self) -> None:
        """Wait for what is being written, and close the database."""
        await self._appends.close()
        await self._settlements.close()
        if self._inserter is not None:
            await self._inserter.close()
        await self._database.close()

    async def _append(self, events: Sequence[NewEvent]) -> Sequence[Appended | Exception]:
        try:
            if self._inserter is not None and not any(event.type == "delete" for event in events):
                return await self._append_shortly(self._inserter, events)
            async with self._transaction() as connection:
                return await appending.append(connection, events, self._replays)
        except EventLogUnavailable as unavailable:
            cause = unavailable.__cause__
            refused = isinstance(cause, _REFUSALS) or (
                isinstance(cause, DBAPIError) and not isinstance(cause, InterfaceError | OperationalError)
            )
            if len(events) == 1 or not refused:
                raise
        # One event that the store refuses must not take its neighbours along.
        results: list[Appended | Exception] = []
        for event in events:
            try:
                async with self._transaction() as connection:
                    results += await appending.append(connection, [event], self._replays)
            except EventLogUnavailable as refusal:
                results.append(refusal)
        return results

    async def _append_shortly(self, inserter: ArrayInserter, events: Sequence[NewEvent]) -> list[Appended]:
        """Append what needs no more than one statement; duplicates are counted afterwards, on their own."""
        first = appending.first_of_each(events)
        try:
            rows = await inserter.insert([events[position] for position in first.values()])
        except _FAILURES as error:
            raise _unavailable(error) from error
        ids = {first[scope, key]: event_id for event_id, scope, key in rows}
        again = [event for position, event in enumerate(events) if position not in ids]
        if again:
            async with self._transaction() as connection:
                await appending.count_duplicates(connection, again, self._replays)
        return [Appended(ids.get(position)) for position in range(len(events))]

    async def _settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        async with self._transaction() as connection:
            return await claiming.settle(connection, settlements)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._database.engine.begin() as connection:
                yield connection
        except _FAILURES as error:
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> EventLogUnavailable:
    return EventLogUnavailable(f"the event log's database failed: {type(error).__name__}")
