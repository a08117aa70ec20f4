"""The event log over PostgreSQL."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from itertools import islice
from typing import TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.admission import Admission
from enable_with_segment.db.event_log.group_commit import GroupCommit, Waiter
from enable_with_segment.db.event_log.log import SegmentLimits
from enable_with_segment.db.event_log.postgresql import appending, browsing, claiming, deletion, replaying
from enable_with_segment.db.event_log.postgresql import retention as forgetting
from enable_with_segment.db.event_log.postgresql.failures import is_refusal, naming_failures, within
from enable_with_segment.db.event_log.postgresql.group_inserter import GroupInserter
from enable_with_segment.db.event_log.postgresql.partitions import Runway
from enable_with_segment.db.event_log.records import (
    Appended,
    Backlog,
    ClaimedEvent,
    Deletion,
    ErasureReport,
    EventCounts,
    EventDetail,
    EventFilter,
    EventLogOutdated,
    EventLogUnavailable,
    EventPage,
    EventRecord,
    NewEvent,
    Predecessor,
    Proof,
    ReplayPolicy,
    Settlement,
)
from enable_with_segment.db.event_log.searching import SearchBounds, Step, find, search
from enable_with_segment.db.revision import is_current

logger = logging.getLogger(__name__)

_Append: TypeAlias = Callable[[Sequence[NewEvent]], Awaitable[list[Appended]]]

#: Few steps: each is a transaction of its own. Where rows have to come from the disk, not all of them are taken.
_BOUNDS = SearchBounds(events_in_step=20_000, steps=5, seconds=0.1)

_SECONDS = 10.0
"""How long receiving and dispatching wait for PostgreSQL; a lease is not over by then. What takes longer is taken for
lost, and tried again on another connection."""
_DELETE_SECONDS = 30.0
"""Storing a delete looks for everybody who was merged into the person, and may not fail for being much."""
_DELETES_AT_ONCE = 20
"""Each of them takes milliseconds in their transaction, and the first waits for the last."""
_ERASED_AT_ONCE = 2_000
"""In a transaction of their own: results of other events wait behind that of one of these."""
_LONG_SECONDS = 600.0
"""Looking through all events, or changing many of them, may take minutes."""
_RETENTION_SECONDS = 3_600.0
"""What was dropped by then stays dropped, and the rest is next time's."""


class SqlEventLog:
    """Implements ``EventLog`` and ``EventArchive``. The database has to be migrated (store ``event_log``).

    Args:
        replays: what becomes of an event that Segment replays after it was handled.
        clock: seconds, for the time that commits take.
    """

    def __init__(
        self,
        database: Database,
        *,
        replays: ReplayPolicy = ReplayPolicy.HOLD,
        limits: SegmentLimits | None = None,
        bounds: SearchBounds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._replays = replays
        self._limits = limits or SegmentLimits()
        self._bounds = bounds or _BOUNDS
        self._runway = Runway(database, self._limits)
        self._inserter = GroupInserter(database)
        self._admission = Admission(clock=clock)
        self._appends: GroupCommit[NewEvent, Appended] = GroupCommit(partial(self._append, self._append_events))
        # In a line of their own: a delete may take long, and nobody else has to wait for it.
        self._deletes: GroupCommit[NewEvent, Appended] = GroupCommit(
            partial(self._append, self._append_deletes), largest=_DELETES_AT_ONCE
        )
        self._settlements: GroupCommit[Sequence[Settlement], Sequence[bool]] = GroupCommit(self._settle, largest=20)

    def append(self, event: NewEvent) -> Awaitable[Appended]:
        self._admission.check()
        return self._line(event).submit(event)

    def append_for(self, waiter: Waiter[Appended], event: NewEvent) -> None:
        self._admission.check()
        self._line(event).submit_for(waiter, event)

    def _line(self, event: NewEvent) -> GroupCommit[NewEvent, Appended]:
        return self._deletes if event.type == "delete" else self._appends

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
        async def once() -> tuple[list[ClaimedEvent], bool]:
            async with self._transaction() as connection:
                return await claiming.claim(
                    connection, components, limit=limit, lease=lease, now=now, until=until, skip=skip
                )

        claimed, is_noted = await once()
        if is_noted and not claimed:  # a deletion may begin, now that everybody can see whom it covers
            claimed, _ = await once()
        return claimed

    def begin(self, lease: str, event_ids: Sequence[int]) -> None:
        """Nothing is to be noted here: every event that somebody held counts as begun."""

    async def renew(self, lease: str, event_ids: Sequence[int], *, until: datetime) -> None:
        async with self._transaction() as connection:
            await claiming.renew(connection, lease, event_ids, until=until)

    async def release(self, lease: str, event_ids: Sequence[int]) -> None:
        async with self._transaction() as connection:
            await claiming.release(connection, lease, event_ids)

    def settle_all(self, settlements: Sequence[Settlement]) -> Awaitable[Sequence[bool]]:
        return self._settlements.submit(settlements)

    async def erase(
        self, event_id: int, lease: str, *, now: datetime, spares_deletes: bool = False
    ) -> ErasureReport | None:
        async with self._long_transaction() as connection:
            covered = await deletion.find_covered(connection, event_id, lease, spares_deletes=spares_deletes)
        if covered is None:
            return None
        merged_ids, event_ids = covered
        for start in range(0, len(event_ids), _ERASED_AT_ONCE):
            portion = event_ids[start : start + _ERASED_AT_ONCE]
            async with self._transaction() as connection:
                if not await deletion.erase(connection, event_id, lease, portion, now=now):
                    return None
        return ErasureReport(merged_ids=merged_ids, events=len(event_ids))

    async def bring_forward(self, components: Collection[str], *, now: datetime, attempted_from: datetime) -> int:
        brought, after = 0, 0
        while True:  # a transaction for each portion, so that nobody waits long for these rows
            async with self._long_transaction() as connection:
                ids = await replaying.bring_forward(
                    connection, components, now=now, attempted_from=attempted_from, after_id=after
                )
            if not ids:
                return brought
            brought, after = brought + len(ids), max(ids)

    async def due(self, components: Collection[str], *, now: datetime) -> int:
        async with self._transaction() as connection:
            return await claiming.count_due(connection, now, components)

    async def find(self, wanted: EventFilter, *, limit: int = 100) -> list[EventRecord]:
        return await find(self._step(wanted), limit=limit)

    async def search(self, wanted: EventFilter, *, limit: int = 100, before_id: int | None = None) -> EventPage:
        return await search(self._step(wanted), self._bounds, limit=limit, before_id=before_id)

    def _step(self, wanted: EventFilter) -> Step:
        async def step(before_id: int | None, limit: int) -> EventPage:
            most = self._bounds.events_in_step
            async with self._long_transaction() as connection:
                return await browsing.search(connection, wanted, limit=limit, before_id=before_id, most=most)

        return step

    async def tail(self, after_id: int, wanted: EventFilter, *, limit: int = 100) -> list[EventRecord]:
        async with self._long_transaction() as connection:
            return await browsing.tail(connection, after_id, wanted, limit=limit)

    async def show(self, message_id: str) -> list[EventDetail]:
        async with self._long_transaction() as connection:
            return await browsing.show(connection, message_id)

    async def deletion_of(self, event_id: int) -> Deletion | None:
        async with self._transaction() as connection:
            return await browsing.deletion_of(connection, event_id)

    async def prove(self, message_ids: Sequence[str]) -> Proof:
        async with self._long_transaction() as connection:
            return await browsing.prove(connection, message_ids)

    async def retry_dead_letters(self, event_ids: Sequence[int] | None, *, now: datetime) -> int:
        async with self._long_transaction() as connection:
            return await browsing.retry_dead_letters(connection, event_ids, now=now)

    async def revive(
        self,
        event_ids: Sequence[int],
        *,
        handler: str | None,
        now: datetime,
        skipped: Mapping[int, Collection[str]] | None = None,
    ) -> int:
        async with self._long_transaction() as connection:
            return await replaying.revive(connection, event_ids, handler=handler, now=now, skipped=skipped or {})

    async def hasten(self, component: str, *, now: datetime, limit: int = 1_000) -> int:
        async with self._long_transaction() as connection:
            return await replaying.hasten(connection, component, now=now, limit=limit)

    async def wake_successors(self, event_ids: Sequence[int], *, now: datetime) -> int:
        async with self._transaction() as connection:
            return await replaying.wake_successors(connection, event_ids, now=now)

    async def predecessors(self, event_ids: Sequence[int]) -> Mapping[int, Sequence[Predecessor]]:
        async with self._transaction() as connection:
            return await replaying.predecessors(connection, event_ids)

    async def counts(self, now: datetime) -> EventCounts:
        async with self._long_transaction() as connection:
            return await browsing.counts(connection, now)

    async def backlog(self) -> Backlog:
        async with self._long_transaction() as connection:
            return await browsing.backlog(connection)

    async def count_pending(self, most: int) -> int:
        async with self._long_transaction() as connection:
            return await browsing.count_pending(connection, most)

    async def become_writer(self) -> None:
        """Every process writes."""

    async def check(self) -> None:
        async with within(_SECONDS):
            current = await is_current(self._database, "event_log")
        if not current:
            raise EventLogOutdated(
                "the event log in PostgreSQL is not at the newest schema; run: enable-with-segment migrate"
            )

    async def drop_before(self, instant: datetime) -> int:
        async with within(_RETENTION_SECONDS):
            dropped = await forgetting.drop_before(self._database, instant)
            await forgetting.forget_keys(self._database, self._limits.dedupe)
        return dropped

    async def drop_over(self, limit_bytes: int) -> int:
        async with within(_RETENTION_SECONDS):
            return await forgetting.drop_over(self._database, limit_bytes)

    async def size(self) -> int:
        async with within(_LONG_SECONDS):
            return await forgetting.size(self._database)

    async def close(self) -> None:
        """Wait for what is being written, and close the database."""
        await self._appends.close()
        await self._deletes.close()
        await self._settlements.close()
        await self._inserter.close()
        await self._database.close()

    async def _append(self, append: _Append, events: Sequence[NewEvent]) -> Sequence[Appended | Exception]:
        try:
            return await append(events)
        except EventLogUnavailable as unavailable:
            if len(events) == 1 or not is_refusal(unavailable):
                raise
        # One event that the store refuses must not take its neighbours along.
        results: list[Appended | Exception] = []
        for event in events:
            try:
                results += await append([event])
            except EventLogUnavailable as problem:
                if not is_refusal(problem):  # the store is away by now, and need not be asked for each of the others
                    return [*results, *[problem] * (len(events) - len(results))]
                results.append(problem)
        return results

    async def _append_events(self, events: Sequence[NewEvent]) -> list[Appended]:
        with self._admission.timed():
            return await self._write(self._insert, events)

    async def _append_deletes(self, events: Sequence[NewEvent]) -> list[Appended]:
        return await self._write(self._insert_deletes, events)

    async def _write(self, write: _Append, events: Sequence[NewEvent]) -> list[Appended]:
        received_at = events[-1].received_at
        try:
            with naming_failures():
                await self._runway.prepare(received_at)
            appended = await write(events)
        except EventLogUnavailable:
            self._runway.forget()
            raise
        newest = max((answer.event_id for answer in appended if answer.event_id is not None), default=None)
        if newest is not None:
            self._runway.noticed(newest, received_at)
        return appended

    async def _insert_deletes(self, events: Sequence[NewEvent]) -> list[Appended]:
        async with self._transaction(_DELETE_SECONDS) as connection:
            appended, repetitions = await appending.append(connection, events, self._replays)
        if repetitions:
            try:
                async with self._transaction(_DELETE_SECONDS) as connection:
                    for repetition in repetitions:
                        await deletion.confirm(connection, repetition)
            except EventLogUnavailable as problem:
                logger.warning("Repeated deletes (%d) are handled once more: %s", len(repetitions), problem)
        return appended

    async def _insert(self, events: Sequence[NewEvent]) -> list[Appended]:
        """Append what needs no more than one statement; duplicates are counted afterwards, on their own."""
        with naming_failures():
            ids = await self._inserter.insert(events)
        again = [event for event, event_id in zip(events, ids, strict=True) if event_id is None]
        differing: Sequence[bool] = [False] * len(again)
        if again:
            try:
                async with self._transaction() as connection:
                    differing = await appending.count_duplicates(connection, again, self._replays)
            except EventLogUnavailable as problem:
                # A replay that is to be handled again has to come again. Everything else is in the log already.
                if self._replays is ReplayPolicy.DISPATCH and any(event.replay for event in again):
                    raise
                logger.warning("%d duplicates were not counted: %s", len(again), problem)
        return appending.answers(ids, differing)

    async def _settle(self, batches: Sequence[Sequence[Settlement]]) -> list[Sequence[bool]]:
        settled = iter(await self._settle_together([one for batch in batches for one in batch]))
        return [list(islice(settled, len(batch))) for batch in batches]

    async def _settle_together(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """Record results in one transaction; where that is refused, in smaller ones, so that none spoils the others."""
        try:
            async with self._transaction() as connection:
                return await claiming.settle(connection, settlements)
        except EventLogUnavailable as problem:
            if not is_refusal(problem):
                raise
            if len(settlements) == 1:
                logger.warning("The result of event %d cannot be stored (%s)", settlements[0].event_id, problem)
                return [False]
        half = len(settlements) // 2
        first = await self._settle_together(settlements[:half])
        return [*first, *await self._settle_together(settlements[half:])]

    @asynccontextmanager
    async def _transaction(self, seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        async with within(seconds or _SECONDS), self._database.engine.begin() as connection:
            yield connection

    def _long_transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._transaction(_LONG_SECONDS)
