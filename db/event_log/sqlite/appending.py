"""Events on their way in: rows of a group, and what becomes of duplicates. Runs inside the group's transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from db.event_log.message_key import same_content
from db.event_log.records import Appended, NewEvent, ReplayPolicy
from db.event_log.sqlite import erasing
from db.event_log.sqlite.catalogue import Catalogue
from db.event_log.sqlite.instants import to_microseconds
from db.event_log.sqlite.segment import HANDLED, UNSUPPORTED, Segment
from db.event_log.sqlite.segments import Segments

_ADD = (
    "INSERT INTO events (id, key, scope, origin, received_at, occurred_at, message_id, type, event, person_hash,"
    " device_hash, previous_hash, settings, available_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
    " ON CONFLICT DO NOTHING RETURNING id"
)
_ADD_BODY = "INSERT INTO bodies (id, body) VALUES (?, ?)"

_DUPLICATE = Appended(None)


def append(
    segments: Segments, catalogue: Catalogue, events: Sequence[NewEvent], replays: ReplayPolicy
) -> tuple[list[Appended], Callable[[], None]]:
    """Store the events that are new and count the others as duplicates.

    Returns:
        The answers, in order, and what has to be noted in memory once the transaction is committed.
    """
    active = segments.active
    first_id = active.next_id
    rows = []
    again: list[tuple[Segment, NewEvent, int]] = []
    for event_id, event in enumerate(events, first_id):
        origin = catalogue.origin_of(event)
        received_at = to_microseconds(event.received_at)
        key = event.dedupe_key
        older = segments.holding(key, origin.scope, received_at)
        if older is not None:
            again.append((older, event, origin.scope))
            continue
        rows.append(
            (
                event_id,
                key,
                origin.scope,
                origin.id,
                received_at,
                to_microseconds(event.occurred_at),
                event.message_id,
                event.type,
                event.event,
                event.person_hash,
                event.device_hash,
                event.previous_hash,
                json.dumps(event.settings) if event.settings else None,
                received_at,
            )
        )
    active.begin()
    stored = [row[0] for row in active.connection.executemany(_ADD, rows)]
    active.connection.executemany(_ADD_BODY, [(event_id, events[event_id - first_id].body) for event_id in stored])
    answers = [_DUPLICATE] * len(events)
    for event_id in stored:
        answers[event_id - first_id] = Appended(event_id)
    if len(stored) < len(rows):
        new = set(stored)
        again += [(active, events[row[0] - first_id], row[2]) for row in rows if row[0] not in new]
    revived = sum(_count_duplicate(segment, event, scope, replays) for segment, event, scope in again)
    repeated = 0
    for event_id in stored:
        event = events[event_id - first_id]
        if event.type == "delete":
            repeated += erasing.request(segments, catalogue, event_id, event)

    def committed() -> None:
        for row in rows:
            active.keys.add(row[1])
        active.waiting += len(stored) + revived - repeated
        if rows:
            active.next_id = first_id + len(events)
            active.count += len(stored)
            active.oldest = active.oldest or rows[0][4]
            active.newest = max(active.newest, rows[-1][4])

    return answers, committed


def _count_duplicate(segment: Segment, event: NewEvent, scope: int, replays: ReplayPolicy) -> int:
    """Count a duplicate where its original is; returns 1 when that makes the original pending again."""
    segment.begin()
    connection = segment.connection
    ((event_id, state, body),) = segment.select(
        "SELECT events.id, state, body FROM events LEFT JOIN bodies USING (id) WHERE key = ? AND scope = ?",
        (event.dedupe_key, scope),
    )
    differs = not event.replay and body is not None and not same_content(body, event.body)
    connection.execute(
        "UPDATE events SET duplicates = duplicates + 1, differing_duplicates = differing_duplicates + ?,"
        " replays = replays + ? WHERE id = ?",
        (differs, event.replay, event_id),
    )
    if not event.replay or replays is ReplayPolicy.HOLD or state not in (HANDLED, UNSUPPORTED) or body is None:
        return 0
    connection.execute(
        "UPDATE events SET state = 0, attempts = 0, outcomes = NULL, finished_at = NULL, available_at = ? WHERE id = ?",
        (to_microseconds(event.received_at), event_id),
    )
    return 1
