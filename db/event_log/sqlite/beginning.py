"""When a deletion may begin, and whom it covers from then on; and what becomes of a merge.

A delete covers everybody who was merged into the person by the time that its handlers are called. What comes to light
after that is no part of it: a merge that is learned of too late is a deletion of its own, of its other id.
"""

from __future__ import annotations

from datetime import datetime
from itertools import product
from typing import NamedTuple

from enable_with_segment.db.event_log.deletion import id_to_delete
from enable_with_segment.db.event_log.instants import to_microseconds
from enable_with_segment.db.event_log.sqlite import outcomes
from enable_with_segment.db.event_log.sqlite.catalogue import Origin, chunks
from enable_with_segment.db.event_log.sqlite.people import events_of, merged_hashes
from enable_with_segment.db.event_log.sqlite.segment import placeholders
from enable_with_segment.db.event_log.sqlite.states import PENDING
from enable_with_segment.db.event_log.sqlite.store import Store


class Candidate(NamedTuple):
    """A delete, or a merge, that is about to be handed out; ``was_attempted`` if handlers may know of it already."""

    event_id: int
    type: str
    origin: Origin
    person: str
    other: str | None
    occurred_at: datetime
    received_at: datetime
    was_attempted: bool


class Beginning:
    """Decides for what a log holds at this moment."""

    def __init__(self, store: Store, now: datetime) -> None:
        self._store = store
        self._segments = store.segments
        self._catalogue = store.catalogue
        self._leases = store.leases
        self._now = now

    def too_late_through(self, merge: Candidate) -> datetime | None:
        """Up to when the person of a merge was deleted, if it comes too late for that; ``None`` if it is handed over.

        It is handed over while a delete that covers it waits to be handled: it tells what else is to be erased. Once
        it is taken for a deletion, it stays one.
        """
        own = self._catalogue.erased_by(merge.event_id)
        if own:
            return own.get(merge.other or "", max(own.values()))  # version 1 noted not all of them for each
        account, component = merge.origin.account, merge.origin.component
        asked = self._catalogue.erasures(account, component, [merge.person]).get(merge.person, ())
        covering = [one for one in asked if one.through >= merge.occurred_at]
        if not covering or any(self._is_waiting_delete(one.event_id) for one in covering):
            return None
        return max(one.through for one in covering)

    def may_begin(self, deletion: Candidate, through: datetime) -> bool:
        """Tell whether a deletion may begin; if so, it is noted whom it covers.

        It waits while somebody works on an event that it covers, whose handler could otherwise write the person back
        after they were erased. A delete waits for every merge, too, that is to be handed over before it.
        """
        whom = id_to_delete(deletion.type, deletion.person, deletion.other)
        if whom is None:
            return True
        has_begun = deletion.was_attempted or self._leases.was_interrupted(deletion.event_id)
        covered = self._catalogue.erased_by(deletion.event_id)
        if self._has_to_wait(deletion, covered, has_begun=has_begun):
            return False
        if covered and (has_begun or not self._has_come_to_light(deletion, covered)):
            return True
        account, component = deletion.origin.account, deletion.origin.component
        through = covered.get(whom, through)
        hashes = merged_hashes(self._store, account, component, whom, through=through)
        self._catalogue.write_tombstones(
            deletion.event_id,
            account=account,
            component=component,
            hashes=hashes - covered.keys(),
            through=through,
            requested_at=deletion.received_at,
        )
        covered = self._catalogue.erased_by(deletion.event_id)
        return not self._has_to_wait(deletion, covered, has_begun=False)

    def _has_come_to_light(self, deletion: Candidate, covered: dict[str, datetime]) -> bool:
        """Tell whether an event that came after a deletion names one more id or device of its people."""
        since = [segment for segment in self._segments if segment.next_id > deletion.event_id]
        account, component = deletion.origin.account, deletion.origin.component
        return any(
            row.id > deletion.event_id and {row.previous_hash, row.device_hash} - {None} - covered.keys()
            for row in events_of(self._catalogue, since, account, component, covered)
            if row.person_hash is not None
        )

    def _has_to_wait(self, deletion: Candidate, covered: dict[str, datetime], *, has_begun: bool) -> bool:
        account, component = deletion.origin.account, deletion.origin.component
        if self._leases.has_to_wait(deletion.event_id, account, component, covered, self._now):
            return True
        return deletion.type == "delete" and not has_begun and self._a_merge_comes_first(deletion, covered)

    def _a_merge_comes_first(self, delete: Candidate, covered: dict[str, datetime]) -> bool:
        waiting = [segment for segment in self._segments if segment.waiting]
        for segment, subjects in product(waiting, chunks(sorted(covered))):
            rows = segment.select(
                "SELECT id, origin, coalesce(person_hash, device_hash), occurred_at FROM events"  # noqa: S608
                f" WHERE id IN (SELECT id FROM people WHERE subject IN ({placeholders(len(subjects))}))"
                " AND state = 0 AND type = 'alias'",
                subjects,
            )
            for merge_id, origin_id, subject, occurred in rows:
                origin = self._catalogue.origin(origin_id)
                if (
                    (origin.account, origin.component) == (delete.origin.account, delete.origin.component)
                    and occurred <= to_microseconds(covered[subject])
                    and not self._catalogue.erased_by(merge_id)  # then it is a deletion of its own
                ):
                    return True
        return False

    def _is_waiting_delete(self, event_id: int) -> bool:
        """Tell whether an event is a delete that no handler can have been called with."""
        segment = self._segments.of_event(event_id)
        if segment is None or self._leases.knows(event_id):
            return False
        row = segment.first("SELECT type, state, attempts, outcomes FROM events WHERE id = ?", (event_id,))
        return row is not None and row[:2] == ("delete", PENDING) and not was_attempted(*row[2:])


def was_attempted(attempts: int, before: str | None) -> bool:
    """Tell whether a handler was called: one that was done stays done when a dead letter is tried again from 0."""
    return attempts > 0 or bool(outcomes.read(before))
