"""Events on their way in: rows of a group, and what becomes of duplicates. Runs inside the group's transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from enable_with_segment.db.event_log.instants import to_microseconds
from enable_with_segment.db.event_log.message_key import same_content
from enable_with_segment.db.event_log.records import Appended, NewEvent, ReplayPolicy
from enable_with_segment.db.event_log.sqlite import deletion
from enable_with_segment.db.event_log.sqlite.segment import Segment
from enable_with_segment.db.event_log.sqlite.states import HANDLED, UNSUPPORTED
from enable_with_segment.db.event_log.sqlite.store import Store

_ADD = (
    "INSERT INTO events (id, key, scope, origin, received_at, occurred_at, message_id, type, event, person_hash,"
    " device_hash, previous_hash, settings, available_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_ADD_BODY = "INSERT INTO bodies (id, body) VALUES (?, ?)"

_DUPLICATE, _DIFFERING = Appended(None), Appended(None, differs=True)


def append(
    store: Store, events: Sequence[NewEvent], replays: ReplayPolicy
) -> tuple[list[Appended], Callable[[], None]]:
    """Store the events that are new and count the others as duplicates.

    Returns:
        The answers, in order, and what has to be noted in memory once the transaction is committed.
    """
    segments, catalogue, active = store.segments, store.catalogue, store.segments.active
    tail_is_indexed = active.index_tail()
    next_id = active.next_id
    fresh: dict[tuple[bytes, int], int] = {}
    rows: list[tuple[Any, ...]] = []
    bodies: list[tuple[int, bytes]] = []
    deletes: list[tuple[int, NewEvent]] = []
    again: list[tuple[int, Segment, int, NewEvent]] = []
    answers: list[Appended] = []
    for event in events:
        _, key, received, occurred, _, _, _, _, message_id, kind, name, person, device, previous, body, settings, _ = (
            event
        )
        origin = catalogue.origin_of(event)
        scope, received_at = origin.scope, to_microseconds(received)
        known = segments.find(key, scope, received_at)
        if known is None and (key, scope) in fresh:
            known = active, fresh[key, scope]
        if known is not None:
            again.append((len(answers), *known, event))
            answers.append(_DUPLICATE)
            continue
        fresh[key, scope] = next_id
        rows.append(
            (
                next_id,
                key,
                scope,
                origin.id,
                received_at,
                to_microseconds(occurred),
                message_id,
                kind,
                name,
                person,
                device,
                previous,
                json.dumps(settings) if settings else None,
                received_at,
            )
        )
        bodies.append((next_id, body))
        if kind == "delete":
            deletes.append((next_id, event))
        answers.append(Appended(next_id))
        next_id += 1
    if rows:
        active.begin()
        active.connection.executemany(_ADD, rows)
        active.connection.executemany(_ADD_BODY, bodies)
    revived: list[Segment] = []
    for place, segment, event_id, event in again:
        differs, is_revived = _count_duplicate(segment, event_id, event, replays)
        if differs:
            answers[place] = _DIFFERING
        if is_revived:
            revived.append(segment)
    repeated = sum(deletion.request(store, event_id, event) for event_id, event in deletes)

    def committed() -> None:
        if tail_is_indexed:
            active.tail.clear()
        for key, _ in fresh:
            active.keys.add(key)
        active.tail.update(fresh)
        active.waiting += len(rows) - repeated
        for segment in revived:
            segment.waiting += 1
        if rows:
            active.next_id = next_id
            active.count += len(rows)
            active.oldest = active.oldest or rows[0][4]
            active.newest = max(active.newest, rows[-1][4])

    return answers, committed


def _count_duplicate(segment: Segment, event_id: int, event: NewEvent, replays: ReplayPolicy) -> tuple[bool, bool]:
    """Count a duplicate where its original is.

    Returns:
        Whether it has another body, and whether it made the original pending again.
    """
    segment.begin()
    connection = segment.connection
    ((state, body),) = segment.select(
        "SELECT state, body FROM events LEFT JOIN bodies USING (id) WHERE id = ?", (event_id,)
    )
    differs = not event.replay and body is not None and not same_content(body, event.body)
    connection.execute(
        "UPDATE events SET duplicates = duplicates + 1, differing_duplicates = differing_duplicates + ?,"
        " replays = replays + ? WHERE id = ?",
        (differs, event.replay, event_id),
    )
    if not event.replay or replays is ReplayPolicy.HOLD or state not in (HANDLED, UNSUPPORTED) or body is None:
        return differs, False
    connection.execute(
        "UPDATE events SET state = 0, attempts = 0, outcomes = NULL, finished_at = NULL, available_at = ? WHERE id = ?",
        (to_microseconds(event.received_at), event_id),
    )
    return differs, True
