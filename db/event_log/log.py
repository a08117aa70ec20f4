"""What an event log can do, whatever it is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from enable_with_segment.db.event_log.group_commit import Waiter
from enable_with_segment.db.event_log.records import (
    Appended,
    Backlog,
    ClaimedEvent,
    Deletion,
    ErasureReport,
    EventCounts,
    EventDetail,
    EventFilter,
    EventPage,
    EventRecord,
    NewEvent,
    Predecessor,
    Proof,
    Settlement,
)


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """When a new segment is begun, and for how long messages are recognised as duplicates.

    A message is recognised at least for as long as ``dedupe`` says, and at most for one segment longer.
    """

    events: int = 2_000_000
    age: timedelta = timedelta(days=1)
    dedupe: timedelta = timedelta(days=30)


class EventLog(Protocol):
    """The working side: events go in, are claimed under a lease, and are settled.

    Every method raises :class:`EventLogUnavailable` when the store cannot be reached.
    """

    def append(self, event: NewEvent) -> Awaitable[Appended]:
        """Store an event; what is awaited comes once it is durable. A delete also writes the person's tombstone."""
        ...

    def append_for(self, waiter: Waiter[Appended], event: NewEvent) -> None:
        """Store an event as :meth:`append` does, and tell somebody who waits without a task.

        Raises:
            EventLogUnavailable: at once; then the waiter is told nothing.
        """
        ...

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
        """Take up to ``limit`` due events of some components that nobody else holds.

        Senders are served in turns, and of each sender the oldest events come first; so the cost and the outcome for
        one sender don't depend on how much another one has waiting.

        Args:
            skip: scopes (``NewEvent.scope``) to take nothing from now.
        """
        ...

    def begin(self, lease: str, event_ids: Sequence[int]) -> None:
        """Note that handlers are about to be called with claimed events.

        When their holder dies, whoever claims them next is told (``ClaimedEvent.interrupted``) that an attempt ended
        without a result. Events that were only claimed have lost nothing. PostgreSQL cannot tell the one from the
        other, where a note would be one more write for every event: there a claim counts as the beginning.
        """
        ...

    async def predecessors(self, event_ids: Sequence[int]) -> Mapping[int, Sequence[Predecessor]]:
        """Return, for those events that have any, the pending events of the same sender and person before them."""
        ...

    async def wake_successors(self, event_ids: Sequence[int], *, now: datetime) -> int:
        """Make due what comes next: of each event's sender and person the first pending event after it.

        For events that an ordered handler is done with. Returns how many became due earlier than planned.
        """
        ...

    async def renew(self, lease: str, event_ids: Sequence[int], *, until: datetime) -> None:
        """Hold claimed events longer."""
        ...

    async def release(self, lease: str, event_ids: Sequence[int]) -> None:
        """Give claimed events back without counting an attempt."""
        ...

    def settle_all(self, settlements: Sequence[Settlement]) -> Awaitable[Sequence[bool]]:
        """Record how attempts ended, together.

        ``False`` for those whose lease had passed to somebody else, and for those that the store refuses as such.
        """
        ...

    async def erase(
        self, event_id: int, lease: str, *, now: datetime, spares_deletes: bool = False
    ) -> ErasureReport | None:
        """Wipe the stored bodies that a deletion covers, all but its own; ``None`` if the lease is lost.

        The deletion is not settled by that, so that it is done again when what comes after it is cut off.

        Args:
            spares_deletes: leave deletes alone that were given up: no handler has done yet what they ask for.
        """
        ...

    async def bring_forward(self, components: Collection[str], *, now: datetime, attempted_from: datetime) -> int:
        """Make pending events of some components due that wait for a later time; returns how many.

        For when the wall clock was set back: what was received before that would wait until the clock gets there, and
        so would what somebody held who died then; such leases end soon, unless they are renewed.

        Args:
            attempted_from: of those that were attempted before, only what waits for a time after this.
        """
        ...

    async def due(self, components: Collection[str], *, now: datetime) -> int:
        """Count the events of some components that are waiting or being worked on and whose time has come."""
        ...


class EventArchive(Protocol):
    """The operator's side: look, prove, and try again."""

    async def find(self, wanted: EventFilter, *, limit: int = 100) -> list[EventRecord]:
        """Return the newest events that match, the newest first, however far back they are. See :meth:`search`."""
        ...

    async def search(self, wanted: EventFilter, *, limit: int = 100, before_id: int | None = None) -> EventPage:
        """Return the newest events that match, the newest first, from a bounded number of events.

        Args:
            before_id: look at events with lower ids only: to go on where another page ended.
        """
        ...

    async def tail(self, after_id: int, wanted: EventFilter, *, limit: int = 100) -> list[EventRecord]:
        """Return matching events after an id, in the order of arrival."""
        ...

    async def show(self, message_id: str) -> list[EventDetail]:
        """Return every event of a message id (one for each install that received it)."""
        ...

    async def deletion_of(self, event_id: int) -> Deletion | None:
        """Return the deletion that does the work of a delete message; ``None`` when there is none."""
        ...

    async def prove(self, message_ids: Sequence[str]) -> Proof:
        """Compare message ids with the log."""
        ...

    async def retry_dead_letters(self, event_ids: Sequence[int] | None, *, now: datetime) -> int:
        """Let dead letters be tried again, all of them for ``None``; returns how many.

        Raises:
            RetryCutShort: the store failed after some of them, which stay as they are now.
        """
        ...

    async def revive(
        self,
        event_ids: Sequence[int],
        *,
        handler: str | None,
        now: datetime,
        skipped: Mapping[int, Collection[str]] | None = None,
    ) -> int:
        """Let events that were finished with be handled once more; returns how many.

        Events whose body was erased, and deletes, stay as they are.

        Args:
            handler: call only this handler again, what others made of the events stays; ``None`` calls all of them.
            skipped: by event, the handlers that are not to be called although they have not finished with it. They get
                the outcome ``skipped``. Counts only beside a ``handler``.
        """
        ...

    async def hasten(self, component: str, *, now: datetime, limit: int = 1_000) -> int:
        """Make pending events of a component due that wait for a later time; returns how many, at most ``limit``.

        Handlers keep the waits they asked for; what comes at once is events that were put back.
        """
        ...

    async def counts(self, now: datetime) -> EventCounts:
        """Count events by state, each as it is when its turn comes: there may be very many."""
        ...

    async def backlog(self) -> Backlog:
        """Tell how much is pending, and since when."""
        ...

    async def count_pending(self, most: int) -> int:
        """Count pending events, but no further than ``most``: cheap enough to be asked every few seconds."""
        ...

    async def size(self) -> int:
        """Return how many bytes the log takes on the disk, or in its database."""
        ...


class StoredEventLog(EventLog, EventArchive, Protocol):
    """A whole log, with what its owner does to it."""

    async def become_writer(self) -> None:
        """Become the one process that writes to an SQLite log, or stay it until :meth:`close`.

        Appending and claiming do that by themselves; who only looks must not. PostgreSQL lets everybody write.

        Raises:
            AnotherProcessWrites: until the other process has let go, or has died.
        """
        ...

    async def check(self) -> None:
        """Return when the log answers and has the schema it needs; raises :class:`EventLogUnavailable` if not."""
        ...

    async def drop_before(self, instant: datetime) -> int:
        """Forget old events, a segment at a time; returns how many.

        A segment goes once its newest event was received before ``instant`` and none in it is pending. Until then a
        message in it counts as a duplicate, so keep more than the dedupe window.
        """
        ...

    async def drop_over(self, limit_bytes: int) -> int:
        """Forget the oldest events, a segment at a time, until the log takes no more than that; returns how many.

        A segment with pending events stays, and so do those after it, and the newest one.
        """
        ...

    async def close(self) -> None:
        """Write what is waiting, and let go of files and connections."""
        ...
