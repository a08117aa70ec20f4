"""The event log over SQLite files.

Everything runs inside the event loop. Whatever was submitted while the loop went once round its ready tasks is
written in one transaction, committed, and answered: under load one flush of the disk serves many deliveries, and a
quiet service answers without delay. A thread for the commits was slower on one core (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeAlias, TypeVar

import apsw

from enable_with_segment.db.event_log.admission import Admission
from enable_with_segment.db.event_log.bug_log import BugLog
from enable_with_segment.db.event_log.group_commit import Waiter
from enable_with_segment.db.event_log.instants import to_microseconds
from enable_with_segment.db.event_log.log import SegmentLimits
from enable_with_segment.db.event_log.records import (
    Appended,
    Backlog,
    ClaimedEvent,
    Deletion,
    ErasureReport,
    EventCounts,
    EventDetail,
    EventFilter,
    EventLogUnavailable,
    EventPage,
    EventRecord,
    NewEvent,
    Predecessor,
    Proof,
    ReplayPolicy,
    RetryCutShort,
    Settlement,
)
from enable_with_segment.db.event_log.searching import SearchBounds, Step, find, search
from enable_with_segment.db.event_log.sqlite import appending, browsing, claiming, deletion, replaying
from enable_with_segment.db.event_log.sqlite.catalogue import Catalogue
from enable_with_segment.db.event_log.sqlite.connection import closed_on_failure, flush_recovered
from enable_with_segment.db.event_log.sqlite.disk_room import DiskRoom
from enable_with_segment.db.event_log.sqlite.group_commit import Gathering
from enable_with_segment.db.event_log.sqlite.held_file import HeldFile
from enable_with_segment.db.event_log.sqlite.leases import Leases
from enable_with_segment.db.event_log.sqlite.segments import Segments
from enable_with_segment.db.event_log.sqlite.store import Store
from enable_with_segment.db.event_log.sqlite.storing import Answers, unavailable, write_in_parts
from enable_with_segment.db.event_log.sqlite.writer_lock import WriterLock
from enable_with_segment.db.problems import StoreMissing

_Result = TypeVar("_Result")
_Work: TypeAlias = Callable[[Store], _Result]

_BOUNDS = SearchBounds(events_in_step=10_000, steps=10)
"""A step takes one or two milliseconds, and more where the disk has to be asked: it holds up the event loop."""
_FORGET_AGAIN_SECONDS = 1.0
"""How long to wait for those who read from a write-ahead log that holds what was erased."""
_FORGET_TOGETHER_SECONDS = 1.0
"""How long to wait for more, where single events are erased."""


class SqliteEventLog:
    """Implements ``EventLog`` and ``EventArchive`` in files beside each other: ``events.db``, ``events.db.000…1``, …

    Args:
        path: the catalogue's file; a missing folder is made.
        replays: what becomes of an event that Segment replays after it was handled.
        most_waiting: the most events and results that may wait for one commit; more are refused.
        bounds: how far back one search looks.
        clock: seconds, for the time that commits take.
        read_only: neither write to the files nor make any; every method raises ``StoreMissing`` if there are none.
    """

    def __init__(
        self,
        path: Path,
        *,
        limits: SegmentLimits | None = None,
        replays: ReplayPolicy = ReplayPolicy.HOLD,
        most_waiting: int = 10_000,
        bounds: SearchBounds | None = None,
        clock: Callable[[], float] = time.monotonic,
        read_only: bool = False,
    ) -> None:
        self._path = path
        self._read_only = read_only
        self._limits = limits or SegmentLimits()
        self._replays = replays
        self._bounds = bounds or _BOUNDS
        self._opened: Store | None = None
        self._writer = WriterLock(path)
        self._leases = Leases()
        self._gathering = Gathering(self._store, most_waiting=most_waiting)
        self._may_be_unflushed = False
        self._may_hold_stale_tombstones = True
        self._admission = Admission(clock=clock)
        self._bugs = BugLog(clock)
        self._disk_room = DiskRoom(path.parent, clock=clock)
        self._forgetting: asyncio.TimerHandle | None = None

    def append(self, event: NewEvent) -> Awaitable[Appended]:
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self.append_for(future, event)
        return future

    def append_for(self, waiter: Waiter[Appended], event: NewEvent) -> None:
        self._admission.check()
        self._disk_room.check()
        self._gathering.add_event(waiter, event)

    def settle_all(self, settlements: Sequence[Settlement]) -> Awaitable[Sequence[bool]]:
        return self._gathering.add_results(settlements)

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
        def work(store: Store) -> list[ClaimedEvent]:
            self._discard_unstored(store)
            return claiming.claim(store, components, limit=limit, lease=lease, now=now, until=until, skip=skip)

        return self._read(self._as_writer(work))

    def begin(self, lease: str, event_ids: Sequence[int]) -> None:
        self._leases.begin(event_ids, lease)

    async def renew(self, lease: str, event_ids: Sequence[int], *, until: datetime) -> None:
        self._leases.renew(event_ids, lease, until)

    async def release(self, lease: str, event_ids: Sequence[int]) -> None:
        self._leases.end(event_ids, lease)

    async def erase(
        self, event_id: int, lease: str, *, now: datetime, spares_deletes: bool = False
    ) -> ErasureReport | None:
        def work(store: Store) -> ErasureReport | None:
            if self._leases.of(event_id, lease) is None:
                return None
            with store.segments.transaction():
                return deletion.erase(store, event_id, now=now, spares_deletes=spares_deletes)

        report = self._read(work)
        if report is not None:
            self._forget_deleted_later(0.0)
        return report

    async def bring_forward(self, components: Collection[str], *, now: datetime, attempted_from: datetime) -> int:
        def begin(store: Store) -> Iterator[int]:
            self._leases.cut_short(now)
            return replaying.bring_forward(store, components, now=now, attempted_from=attempted_from)

        return sum([brought async for brought in self._in_steps(begin)])

    async def due(self, components: Collection[str], *, now: datetime) -> int:
        return self._read(lambda store: claiming.count_due(store, now, components))

    async def find(self, wanted: EventFilter, *, limit: int = 100) -> list[EventRecord]:
        return await find(self._step(wanted), limit=limit)

    async def search(self, wanted: EventFilter, *, limit: int = 100, before_id: int | None = None) -> EventPage:
        return await search(self._step(wanted), self._bounds, limit=limit, before_id=before_id)

    def _step(self, wanted: EventFilter) -> Step:
        most = self._bounds.events_in_step

        async def step(before_id: int | None, limit: int) -> EventPage:
            return self._read(lambda store: browsing.search(store, wanted, limit=limit, before_id=before_id, most=most))

        return step

    async def tail(self, after_id: int, wanted: EventFilter, *, limit: int = 100) -> list[EventRecord]:
        return self._read(lambda store: browsing.tail(store, after_id, wanted, limit=limit))

    async def show(self, message_id: str) -> list[EventDetail]:
        return self._read(lambda store: browsing.show(store, message_id))

    async def deletion_of(self, event_id: int) -> Deletion | None:
        return self._read(lambda store: browsing.deletion_of(store, event_id))

    async def prove(self, message_ids: Sequence[str]) -> Proof:
        return self._read(lambda store: browsing.prove(store.segments, message_ids))

    async def retry_dead_letters(self, event_ids: Sequence[int] | None, *, now: datetime) -> int:
        retried = 0
        try:
            async for step in self._in_steps(
                lambda store: replaying.retry_dead_letters(store.segments, event_ids, now=now)
            ):
                retried += step
        except EventLogUnavailable as problem:
            if retried:
                raise RetryCutShort(retried) from problem
            raise
        return retried

    async def revive(
        self,
        event_ids: Sequence[int],
        *,
        handler: str | None,
        now: datetime,
        skipped: Mapping[int, Collection[str]] | None = None,
    ) -> int:
        def work(store: Store) -> int:
            with store.segments.transaction():
                return replaying.revive(store.segments, event_ids, handler=handler, now=now, skipped=skipped or {})

        return self._read(work)

    async def hasten(self, component: str, *, now: datetime, limit: int = 1_000) -> int:
        def work(store: Store) -> int:
            with store.segments.transaction():
                return replaying.hasten(store, component, now=now, limit=limit)

        return self._read(work)

    async def wake_successors(self, event_ids: Sequence[int], *, now: datetime) -> int:
        return self._read(lambda store: replaying.wake_successors(store, event_ids, now=now))

    async def predecessors(self, event_ids: Sequence[int]) -> Mapping[int, Sequence[Predecessor]]:
        return self._read(lambda store: replaying.predecessors(store.segments, event_ids))

    async def counts(self, now: datetime) -> EventCounts:
        steps = self._in_steps(lambda store: browsing.counts(store.segments, now))
        return sum([counted async for counted in steps], start=EventCounts())

    async def backlog(self) -> Backlog:
        return self._read(lambda store: browsing.backlog(store.segments))

    async def count_pending(self, most: int) -> int:
        return self._read(lambda store: browsing.count_pending(store.segments, most))

    async def drop_before(self, instant: datetime) -> int:
        return self._read(lambda store: store.segments.drop_before(to_microseconds(instant)))

    async def drop_over(self, limit_bytes: int) -> int:
        return self._read(lambda store: store.segments.drop_over(limit_bytes))

    async def size(self) -> int:
        return self._read(lambda store: store.segments.bytes())

    async def become_writer(self) -> None:
        self._read(self._as_writer(lambda _: None))

    async def check(self) -> None:
        self._read(lambda store: store.segments.active.refresh())

    async def close(self) -> None:
        """Write what is waiting and close the files."""
        self._gathering.flush()
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None
        self._close_files()
        self._leases.forget()
        self._writer.release()

    def _store(self, events: Sequence[NewEvent], settlements: Sequence[Settlement]) -> Answers:
        return write_in_parts(self._write, events, settlements, self._bugs)

    def _write(
        self, events: Sequence[NewEvent], settlements: Sequence[Settlement]
    ) -> tuple[list[Appended], list[bool]]:
        notes: list[Callable[[], None]] = []
        appended: list[Appended] = []
        settled: list[bool] = []

        def work(store: Store) -> None:
            nonlocal appended, settled
            if events:
                store.segments.rotate_if_due(to_microseconds(events[0].received_at))
                self._discard_unstored(store)
                self._may_hold_stale_tombstones = True
            # A result that a power cut undoes is a handler called once more; so results need not wait for the disk.
            with store.segments.transaction(flushed=bool(events)):
                if events:
                    appended, note = appending.append(store, events, self._replays)
                    notes.append(note)
                if settlements:
                    settled, note = claiming.settle(store, settlements)
                    notes.append(note)

        with self._admission.timed():
            self._open_and(self._as_writer(work) if events else work)
        if events:
            self._may_hold_stale_tombstones = False
        for note in notes:
            note()
        if any(settlement.erases_content for settlement in settlements):
            self._forget_deleted_later(_FORGET_TOGETHER_SECONDS)
        return appended, settled

    def _read(self, work: _Work[_Result]) -> _Result:
        try:
            return self._open_and(work)
        except (apsw.Error, OSError) as error:
            raise unavailable(error) from error

    async def _in_steps(self, begin: Callable[[Store], Iterator[_Result]]) -> AsyncIterator[_Result]:
        """Go through very many events a portion at a time: others want to be answered meanwhile."""
        steps = self._read(begin)
        while (step := self._read(lambda _: next(steps, None))) is not None:
            yield step
            await asyncio.sleep(0)

    def _open_and(self, work: _Work[_Result]) -> _Result:
        if self._opened is None:
            if self._read_only and not self._path.exists():
                raise StoreMissing.at("event log", self._path)
            catalogue = Catalogue(self._path, read_only=self._read_only)
            with closed_on_failure(catalogue.close):
                segments = Segments(self._path, self._limits, read_only=self._read_only)
            self._opened = Store(catalogue, segments, self._leases)
            self._may_be_unflushed = True
        try:
            return work(self._opened)
        except (apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.CantOpenError):
            # The files are opened anew for the next attempt, so that the log comes back when its disk does.
            self._close_files()
            raise

    def _as_writer(self, work: _Work[_Result]) -> _Work[_Result]:
        """Do some work as the one process that writes, on files opened anew if another one wrote to them meanwhile."""

        def writing(store: Store) -> _Result:
            if self._writer.acquire():
                with closed_on_failure(self._writer.release):
                    self._leases.remember_in(HeldFile(self._path))
                self._forget_deleted_later(0.0)  # what was erased just before the last process died
                if store.segments.active.is_outdated:
                    self._close_files()
                    return self._open_and(writing)
            if self._may_be_unflushed:
                flush_recovered(store.catalogue.connection)
                if store.segments.active.holds_deleted:  # or its log is this process's own
                    flush_recovered(store.segments.active.connection)
                self._may_be_unflushed = False
            return work(store)

        return writing

    def _discard_unstored(self, store: Store) -> None:
        """Remove the tombstones of deletes that were refused, or whose process died before it had stored them."""
        if self._may_hold_stale_tombstones:
            store.catalogue.discard_unstored(store.segments.active.next_id)
            self._may_hold_stale_tombstones = False

    def _forget_deleted_later(self, seconds: float) -> None:
        if self._forgetting is None:
            self._forgetting = asyncio.get_running_loop().call_later(seconds, self._forget_deleted)

    def _forget_deleted(self) -> None:
        """Remove what was erased from a write-ahead log as well: one at a time, since that writes to the disk.

        Where somebody reads from it at the moment that is done a little later; nobody is waited for.
        """
        self._forgetting = None
        if self._opened is None:  # they are opened anew by whoever needs them next
            self._forget_deleted_later(_FORGET_AGAIN_SECONDS)
            return
        segments = self._opened.segments
        is_done = any(segment.forget_deleted() for segment in segments.holding_deleted())
        if segments.holding_deleted():
            self._forget_deleted_later(0.0 if is_done else _FORGET_AGAIN_SECONDS)

    def _close_files(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
