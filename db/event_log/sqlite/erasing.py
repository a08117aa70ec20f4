"""Deletion in the log: tombstones for a person and the ids merged into them, and wiping what is stored.

A delete's tombstones are on the disk before the delete itself: a crash in between leaves tombstones of a delete that
was not acknowledged, and Segment sends it again. They are forgotten then (``Catalogue.forget_unstored``).
"""

from __future__ import annotations

from datetime import datetime

from enable_with_segment.db.event_log.deletion import SAME_DELETION, reach
from enable_with_segment.db.event_log.instants import to_microseconds
from enable_with_segment.db.event_log.records import ErasureReport, NewEvent
from enable_with_segment.db.event_log.sqlite import outcomes
from enable_with_segment.db.event_log.sqlite.catalogue import Catalogue, ErasureRequest
from enable_with_segment.db.event_log.sqlite.people import PersonEvent, events_of, merged_hashes
from enable_with_segment.db.event_log.sqlite.states import DEAD_LETTER, HANDLED, PENDING, REPEATED_DELETE, SUPPRESSED
from enable_with_segment.db.event_log.sqlite.store import Store


def request(store: Store, event_id: int, delete: NewEvent) -> bool:
    """Write the tombstones of a delete that was just stored, or recognise it as one more message of the same one.

    A further message within a day is the same deletion as long as nothing newer of the person has arrived and the
    first one was not given up. Returns whether it is one.
    """
    if delete.person_hash is None:
        raise ValueError("a delete names no person")
    through = reach(delete.occurred_at, delete.received_at)
    account, component = delete.account, delete.component
    hashes = merged_hashes(store, account, component, delete.person_hash, through=through)
    first = _same_deletion(store, delete, hashes)
    if first is not None:
        connection = store.segments.active.connection
        connection.execute(
            "UPDATE events SET state = ?, finished_at = ? WHERE id = ?",
            (REPEATED_DELETE, to_microseconds(delete.received_at), event_id),
        )
        connection.execute("DELETE FROM bodies WHERE id = ?", (event_id,))
        store.catalogue.extend_tombstones(first.event_id, hashes, through)
        return True
    store.catalogue.write_tombstones(
        event_id,
        account=account,
        component=component,
        hashes=hashes,
        through=through,
        requested_at=delete.received_at,
    )
    return False


def wipe(store: Store, event_id: int, *, now: datetime, spares_deletes: bool) -> ErasureReport | None:
    """Remove the bodies and error texts of the events that a deletion covers; ``None`` if it is over.

    Whom it covers was noted when it began (``db.event_log.sqlite.beginning``).

    Args:
        spares_deletes: leave deletes alone that were given up.
    """
    segment = store.segments.of_event(event_id)
    row = None if segment is None else segment.first("SELECT origin, state FROM events WHERE id = ?", (event_id,))
    if row is None or row[1] != PENDING:
        return None
    origin = store.catalogue.origin(row[0])
    covered = {subject: to_microseconds(through) for subject, through in store.catalogue.erased_by(event_id).items()}
    wiped = 0
    for event in list(events_of(store.catalogue, store.segments, origin.account, origin.component, covered)):
        is_given_up = event.state == DEAD_LETTER and event.type == "delete"
        if event.occurred_at > covered[event.subject] or _is_to_erase(event, store.catalogue):
            continue
        if is_given_up and spares_deletes:
            continue
        wiped += 1
        unfinished = event.state in (PENDING, DEAD_LETTER)
        event.segment.begin()
        event.segment.holds_deleted = True
        event.segment.connection.execute(
            "UPDATE events SET last_error = NULL, outcomes = ?, state = ?, finished_at = coalesce(finished_at, ?)"
            " WHERE id = ?",
            (
                outcomes.without_errors(event.outcomes),
                SUPPRESSED if unfinished else event.state,
                to_microseconds(now),
                event.id,
            ),
        )
        event.segment.connection.execute("DELETE FROM bodies WHERE id = ?", (event.id,))
        if event.state == PENDING:
            event.segment.waiting -= 1
    return ErasureReport(merged_ids=max(0, len(covered) - 1), events=wiped)


def _is_to_erase(row: PersonEvent, catalogue: Catalogue) -> bool:
    """Tell whether an event is still to end in an erasure of its own: its handlers have to be told whose.

    So is a merge that was given up as one: the other id is not deleted before somebody lets it be tried again.
    """
    if row.state == PENDING:
        return row.type in ("delete", "alias")
    return row.state == DEAD_LETTER and row.type == "alias" and bool(catalogue.erased_by(row.id))


def _same_deletion(store: Store, delete: NewEvent, hashes: set[str]) -> ErasureRequest | None:
    """Return the deletion that a delete asks for once more; ``None`` if it asks for one of its own."""
    person = delete.person_hash or ""
    asked = store.catalogue.erasures(delete.account, delete.component, [person]).get(person)
    if asked is None:
        return None
    newest = asked[0]
    segment = store.segments.of_event(newest.event_id)
    if segment is None:
        return None
    state = segment.first("SELECT state FROM events WHERE id = ?", (newest.event_id,))
    if state is None or state[0] not in (PENDING, HANDLED) or delete.received_at - newest.requested_at > SAME_DELETION:
        return None
    through = to_microseconds(newest.through)
    for row in events_of(store.catalogue, store.segments, delete.account, delete.component, hashes):
        if row.type != "delete" and row.occurred_at > through:
            return None
    return newest
