"""Deletion in the log: tombstones for a person and the ids merged into them, and wiping what is stored.

A delete's tombstones are on the disk before the delete itself: a crash in between leaves tombstones of a delete that
was not acknowledged, and Segment sends it again. Until then they belong to no event (``Catalogue.disown``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import NamedTuple

from db.event_log.instants import to_instant, to_microseconds
from db.event_log.records import ErasureReport, NewEvent
from db.event_log.sqlite import outcomes
from db.event_log.sqlite.catalogue import Catalogue, chunks
from db.event_log.sqlite.segment import (
    DEAD_LETTER,
    HANDLED,
    PENDING,
    REPEATED_DELETE,
    SUPPRESSED,
    Segment,
    placeholders,
)
from db.event_log.sqlite.segments import Segments
from db.event_log.tombstone import SAME_DELETION


class _Row(NamedTuple):
    """What matters of an event of somebody who is erased."""

    segment: Segment
    id: int
    type: str
    occurred_at: int
    state: int
    person_hash: str | None
    device_hash: str | None
    previous_hash: str | None
    outcomes: str | None


def request(segments: Segments, catalogue: Catalogue, event_id: int, delete: NewEvent) -> bool:
    """Write the tombstones of a delete that was just stored, or recognise it as one more message of the same one.

    A further message within a day is the same deletion as long as nothing newer of the person has arrived and the
    first one was not given up. Returns whether it is one.
    """
    if delete.person_hash is None:
        raise ValueError("a delete names no person")
    # A device clock that runs ahead must not suppress events that have not happened yet.
    through = min(delete.occurred_at, delete.received_at)
    account, component = delete.account, delete.component
    hashes = _merged_hashes(segments, catalogue, account, component, delete.person_hash)
    if _is_repeated(segments, catalogue, delete, hashes):
        connection = segments.active.connection
        connection.execute(
            "UPDATE events SET state = ?, finished_at = ? WHERE id = ?",
            (REPEATED_DELETE, to_microseconds(delete.received_at), event_id),
        )
        connection.execute("DELETE FROM bodies WHERE id = ?", (event_id,))
        catalogue.extend_tombstones(account, component, hashes, through)
        return True
    catalogue.write_tombstones(
        event_id,
        account=account,
        component=component,
        hashes=hashes,
        through=through,
        requested_at=delete.received_at,
    )
    return False


def wipe(segments: Segments, catalogue: Catalogue, event_id: int, *, now: datetime) -> ErasureReport:
    """Remove the bodies and error texts of the events that a delete covers.

    Ids that were merged into the person since the delete arrived are covered from here on as well. An alias that came
    after the person's deletion was finished does for the ids it brings what that did for the others.
    """
    segment = segments.of_event(event_id)
    assert segment is not None  # noqa: S101  it was settled a moment ago
    ((origin_id, kind, person_hash, occurred, received),) = segment.select(
        "SELECT origin, type, person_hash, occurred_at, received_at FROM events WHERE id = ?", (event_id,)
    )
    origin = catalogue.origin(origin_id)
    through = min(occurred, received)
    if (extended := catalogue.erased_by(event_id).get(person_hash)) is not None:  # by a later message of the same one
        through = max(through, to_microseconds(extended))
    hashes = _merged_hashes(segments, catalogue, origin.account, origin.component, person_hash)
    uncovered = hashes
    if kind == "alias":
        known = catalogue.tombstones(origin.account, origin.component, hashes)
        if person_hash in known:
            through = max(through, to_microseconds(known[person_hash][0].through))
        # The person's own stays as it is: it has to be complete, whatever becomes of this.
        uncovered = {one for one in hashes if one not in known or to_microseconds(known[one][0].through) < through}
    catalogue.write_tombstones(
        event_id,
        account=origin.account,
        component=origin.component,
        hashes=uncovered,
        through=to_instant(through),
        requested_at=to_instant(received),
    )
    wiped = 0
    for row in list(_events_of(segments, catalogue, origin.account, origin.component, hashes)):
        if row.id != event_id and (row.occurred_at > through or _is_to_erase(row)):
            continue
        wiped += 1
        unfinished = row.id != event_id and row.state in (PENDING, DEAD_LETTER)
        row.segment.begin()
        row.segment.holds_deleted = True
        row.segment.connection.execute(
            "UPDATE events SET last_error = NULL, outcomes = ?, state = ?, finished_at = coalesce(finished_at, ?)"
            " WHERE id = ?",
            (
                outcomes.without_errors(row.outcomes),
                SUPPRESSED if unfinished else row.state,
                to_microseconds(now),
                row.id,
            ),
        )
        row.segment.connection.execute("DELETE FROM bodies WHERE id = ?", (row.id,))
        if row.state == PENDING and unfinished:
            row.segment.waiting -= 1
    return ErasureReport(merged_ids=len(hashes) - 1, events=wiped)


def _is_to_erase(row: _Row) -> bool:
    """Tell whether an event is still to end in an erasure of its own: its handlers have to be told whose."""
    return row.state == PENDING and row.type in ("delete", "alias")


def _merged_hashes(
    segments: Segments, catalogue: Catalogue, account: str, component: str, person_hash: str
) -> set[str]:
    """Return the person, every id that was merged into them by alias, and the devices they were seen on."""
    people, devices, frontier = {person_hash}, set[str](), {person_hash}
    while frontier:
        found = set[str]()
        for row in _events_of(segments, catalogue, account, component, frontier):
            if row.person_hash is None:  # a device of the same name is not the person
                continue
            if row.device_hash is not None:
                devices.add(row.device_hash)
            if row.previous_hash is not None:
                found.add(row.previous_hash)
        frontier = found - people
        people |= frontier
    return people | devices


def _is_repeated(segments: Segments, catalogue: Catalogue, delete: NewEvent, hashes: set[str]) -> bool:
    person = delete.person_hash or ""
    stored = catalogue.tombstones(delete.account, delete.component, [person]).get(person)
    if stored is None:
        return False
    tombstone, first = stored
    segment = segments.of_event(first.event_id)
    if segment is None:
        return False
    state = segment.first("SELECT state FROM events WHERE id = ?", (first.event_id,))
    if state is None or state[0] not in (PENDING, HANDLED) or delete.received_at - first.requested_at > SAME_DELETION:
        return False
    through = to_microseconds(tombstone.through)
    return not any(
        row.type != "delete" and row.occurred_at > through
        for row in _events_of(segments, catalogue, delete.account, delete.component, hashes)
    )


def _events_of(
    segments: Segments, catalogue: Catalogue, account: str, component: str, subjects: Collection[str]
) -> Iterator[_Row]:
    """Every event whose person, or whose device while no person is known, is one of the subjects."""
    for segment in segments:
        for chunk in chunks(sorted(subjects)):
            rows = segment.select(
                "SELECT id, type, occurred_at, state, person_hash, device_hash, previous_hash, outcomes, origin"  # noqa: S608
                f" FROM events WHERE id IN (SELECT id FROM people WHERE subject IN ({placeholders(len(chunk))}))",
                chunk,
            )
            for *values, origin_id in rows:
                origin = catalogue.origin(origin_id)
                if (origin.account, origin.component) == (account, component):
                    yield _Row(segment, *values)
