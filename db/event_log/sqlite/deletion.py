"""Deletions in an SQLite log: its answers to the deletion rules (``db.event_log.deletion``), and erasing events.

A delete's tombstones are on the disk before the delete itself. A crash in between leaves tombstones of a delete that
was not acknowledged, and that Segment sends again. They are removed then (``Catalogue.discard_unstored``).
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import product
from typing import Any, NamedTuple, TypeVar

from enable_with_segment.db.event_log import deletion as rules
from enable_with_segment.db.event_log.deletion import Candidate, Decisions, Link, Tenant, Tombstone
from enable_with_segment.db.event_log.instants import to_microseconds
from enable_with_segment.db.event_log.records import ErasureReport, NewEvent
from enable_with_segment.db.event_log.sqlite import outcomes
from enable_with_segment.db.event_log.sqlite.catalogue import chunks
from enable_with_segment.db.event_log.sqlite.segment import Segment, placeholders
from enable_with_segment.db.event_log.sqlite.states import PENDING, REPEATED_DELETE, STATES, SUPPRESSED
from enable_with_segment.db.event_log.sqlite.store import Store
from enable_with_segment.db.event_log.states import EventState

_Result = TypeVar("_Result")


class _Event(NamedTuple):
    """What a deletion needs to know of an event."""

    segment: Segment
    id: int
    type: str
    occurred_at: int
    state: int
    person_hash: str | None
    device_hash: str | None
    previous_hash: str | None
    outcomes: str | None

    @property
    def subject(self) -> str:
        """The person, or the device while no person is known."""
        return self.person_hash or self.device_hash or ""


class SqliteDeletions:
    """Implements ``DeletionStore``. No method waits, so the rules run at once (:func:`run_now`)."""

    is_shared = False

    def __init__(self, store: Store, now: datetime) -> None:
        self._store = store
        self._now = now

    async def covered_by(self, deletion_id: int) -> dict[str, datetime]:
        return self._store.catalogue.covered_by(deletion_id)

    async def tombstones(self, tenant: Tenant, subject: str) -> Sequence[Tombstone]:
        return tombstones(self._store, tenant, subject)

    async def write_tombstones(
        self, deletion_id: int, tenant: Tenant, hashes: Iterable[str], *, through: datetime, requested_at: datetime
    ) -> None:
        self._store.catalogue.write_tombstones(deletion_id, tenant, hashes, through=through, requested_at=requested_at)

    async def extend_tombstones(self, deletion_id: int, hashes: Collection[str], through: datetime) -> None:
        self._store.catalogue.extend_tombstones(deletion_id, hashes, through)

    async def links(self, tenant: Tenant, people: Collection[str], through: datetime) -> Collection[Link]:
        until = to_microseconds(through)
        return {
            Link(event.previous_hash, event.device_hash)
            for event in self.events_of(tenant, people)
            if event.person_hash is not None and event.occurred_at <= until  # a device of the same name is no person
        }

    async def may_have_links(self, deletion: Candidate, covered: Collection[str]) -> bool:
        return any(
            event.id > deletion.event_id and {event.previous_hash, event.device_hash} - {None} - {*covered}
            for event in self.events_of(deletion.tenant, covered, since=deletion.event_id)
            if event.person_hash is not None
        )

    async def has_newer(self, tenant: Tenant, hashes: Collection[str], instant: datetime) -> bool:
        since = to_microseconds(instant)
        return any(event.type != "delete" and event.occurred_at > since for event in self.events_of(tenant, hashes))

    async def has_waiting_delete(self, event_ids: Collection[int]) -> bool:
        return any(self._is_waiting_delete(event_id) for event_id in event_ids)

    async def has_to_wait(self, deletion: Candidate, covered: dict[str, datetime], *, for_merges: bool) -> bool:
        if self._store.leases.has_to_wait(deletion.event_id, deletion.tenant, covered, self._now):
            return True
        return for_merges and self._has_pending_merge(deletion.tenant, covered)

    def events_of(self, tenant: Tenant, subjects: Collection[str], *, since: int = 0) -> Iterator[_Event]:
        """Return every event of some people, or of devices while no person is known.

        Args:
            since: leave segments out that hold no event after that one.
        """
        segments = [segment for segment in self._store.segments if segment.next_id > since]
        for segment, chunk in product(segments, list(chunks(sorted(subjects)))):
            rows = segment.select(
                "SELECT id, type, occurred_at, state, person_hash, device_hash, previous_hash, outcomes, origin"  # noqa: S608
                f" FROM events WHERE id IN (SELECT id FROM people WHERE subject IN ({placeholders(len(chunk))}))",
                chunk,
            )
            for *values, origin in rows:
                if self._store.catalogue.origin(origin).tenant == tenant:
                    yield _Event(segment, *values)

    def _has_pending_merge(self, tenant: Tenant, covered: dict[str, datetime]) -> bool:
        waiting = [segment for segment in self._store.segments if segment.waiting]
        for segment, chunk in product(waiting, list(chunks(sorted(covered)))):
            rows = segment.select(
                "SELECT id, origin, coalesce(person_hash, device_hash), occurred_at FROM events"  # noqa: S608
                f" WHERE id IN (SELECT id FROM people WHERE subject IN ({placeholders(len(chunk))}))"
                " AND state = 0 AND type = 'alias'",
                chunk,
            )
            if any(
                self._store.catalogue.origin(origin).tenant == tenant
                and occurred_at <= to_microseconds(covered[subject])
                and not self._store.catalogue.covered_by(event_id)  # then it is a deletion itself
                for event_id, origin, subject, occurred_at in rows
            ):
                return True
        return False

    def _is_waiting_delete(self, event_id: int) -> bool:
        segment = self._store.segments.of_event(event_id)
        if segment is None or self._store.leases.knows(event_id):
            return False
        row = segment.first("SELECT type, state, attempts, outcomes FROM events WHERE id = ?", (event_id,))
        if row is None:
            return False
        kind, state, attempts, before = row
        return kind == "delete" and state == PENDING and not was_attempted(attempts, before)


def run_now(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine that never waits to its end; returns its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: _Result = end.value
        return result
    coroutine.close()
    raise RuntimeError("a store that answers at once had to wait")


def tombstones(store: Store, tenant: Tenant, subject: str) -> list[Tombstone]:
    """Return the deletions of one id, the newest first."""
    found = store.catalogue.tombstones(tenant, [subject]).get(subject, ())
    return [one._replace(state=_state_of(store, one.event_id)) for one in found]


def _state_of(store: Store, event_id: int) -> EventState | None:
    segment = store.segments.of_event(event_id)
    row = None if segment is None else segment.first("SELECT state FROM events WHERE id = ?", (event_id,))
    return None if row is None else STATES[row[0]]


def was_attempted(attempts: int, before: str | None) -> bool:
    """Return True if a handler was called. A dead letter that is retried from 0 keeps the handlers that were done."""
    return attempts > 0 or bool(outcomes.read(before))


def decide(store: Store, candidates: Iterable[Candidate], *, now: datetime) -> Decisions:
    """Decide which deletes and aliases are handed out; writes the tombstones of deletions that begin."""
    return run_now(rules.decide(SqliteDeletions(store, now), candidates))


def request(store: Store, event_id: int, delete: NewEvent) -> bool:
    """Write the tombstones of a delete that was just stored; returns True if it repeats an earlier one."""
    repetition = run_now(rules.request(SqliteDeletions(store, delete.received_at), event_id, delete))
    if repetition is None:
        return False
    connection = store.segments.active.connection
    connection.execute(
        "UPDATE events SET state = ?, finished_at = ? WHERE id = ?",
        (REPEATED_DELETE, to_microseconds(delete.received_at), event_id),
    )
    connection.execute("DELETE FROM bodies WHERE id = ?", (event_id,))
    return True


def erase(store: Store, event_id: int, *, now: datetime, spares_deletes: bool) -> ErasureReport | None:
    """Remove the bodies and error texts of the events that a deletion covers; ``None`` if it is not pending.

    Args:
        spares_deletes: keep dead-lettered deletes.
    """
    segment = store.segments.of_event(event_id)
    row = None if segment is None else segment.first("SELECT origin, state FROM events WHERE id = ?", (event_id,))
    if row is None or row[1] != PENDING:
        return None
    tenant = store.catalogue.origin(row[0]).tenant
    covered = {subject: to_microseconds(through) for subject, through in store.catalogue.covered_by(event_id).items()}
    erased = [
        event
        for event in SqliteDeletions(store, now).events_of(tenant, covered)
        if event.occurred_at <= covered[event.subject]
        and rules.is_erasable(
            event.type,
            STATES[event.state],
            is_deletion=event.type == "alias" and bool(store.catalogue.covered_by(event.id)),
            spares_deletes=spares_deletes,
        )
    ]
    for event in erased:
        _erase(event, to_microseconds(now))
    return ErasureReport(merged_ids=max(0, len(covered) - 1), events=len(erased))


def _erase(event: _Event, now: int) -> None:
    event.segment.begin()
    event.segment.holds_deleted = True
    event.segment.connection.execute(
        "UPDATE events SET last_error = NULL, outcomes = ?, state = ?, finished_at = coalesce(finished_at, ?)"
        " WHERE id = ?",
        (
            outcomes.without_errors(event.outcomes),
            SUPPRESSED if STATES[event.state] in rules.UNFINISHED else event.state,
            now,
            event.id,
        ),
    )
    event.segment.connection.execute("DELETE FROM bodies WHERE id = ?", (event.id,))
    if event.state == PENDING:
        event.segment.waiting -= 1
