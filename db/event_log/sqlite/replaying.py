"""Events that are handled once more, or sooner than they would have been."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

from enable_with_segment.db.event_log.instants import to_microseconds
from enable_with_segment.db.event_log.records import Predecessor
from enable_with_segment.db.event_log.sqlite import outcomes
from enable_with_segment.db.event_log.sqlite.catalogue import chunks
from enable_with_segment.db.event_log.sqlite.segment import Segment, placeholders
from enable_with_segment.db.event_log.sqlite.segments import Segments
from enable_with_segment.db.event_log.sqlite.states import DEAD_LETTER, HANDLED, UNSUPPORTED
from enable_with_segment.db.event_log.sqlite.store import Store

_FINISHED = f"state IN ({HANDLED}, {UNSUPPORTED}, {DEAD_LETTER}) AND type <> 'delete'"
_LATER = (
    "SELECT available_at, id, attempts FROM events WHERE state = 0 AND origin = ? AND (available_at, id) > (?, ?)"
    " ORDER BY available_at, id LIMIT ?"
)
_PORTION = 1_000
_DEAD_LETTERS = "SELECT id FROM events INDEXED BY dead_letters WHERE state = 5 AND id > ? ORDER BY id LIMIT ?"
_RETRIED_IN_STEP = 100
"""Each step waits for the disk once, inside the event loop."""


def revive(
    segments: Segments,
    event_ids: Sequence[int],
    *,
    handler: str | None,
    now: datetime,
    skipped: Mapping[int, Collection[str]],
) -> int:
    """Make finished events pending again, so that all handlers or only one is called once more."""

    def remaining(event_id: int, before: str | None) -> str | None:
        if handler is None:
            return None
        return outcomes.of_others(before, handler, skipped=skipped.get(event_id, ()), at=now)

    revived = 0
    for segment, ids in _by_segment(segments, event_ids).items():
        rows = list(
            segment.select(
                f"SELECT id, outcomes FROM events JOIN bodies USING (id)"  # noqa: S608
                f" WHERE id IN ({placeholders(len(ids))}) AND {_FINISHED}",
                ids,
            )
        )
        segment.begin()
        segment.connection.executemany(
            "UPDATE events SET state = 0, attempts = 0, finished_at = NULL, last_error = NULL, available_at = ?,"
            " outcomes = ? WHERE id = ?",
            [(to_microseconds(now), remaining(event_id, before), event_id) for event_id, before in rows],
        )
        segment.waiting += len(rows)
        revived += len(rows)
    return revived


def retry_dead_letters(segments: Segments, event_ids: Sequence[int] | None, *, now: datetime) -> Iterator[int]:
    """Make dead letters pending again with a fresh count of attempts; handlers that were done stay done.

    Each step is a transaction over a portion of them, and tells how many it made pending.
    """
    instant = to_microseconds(now)
    for segment, ids in _dead_letters(segments) if event_ids is None else _portions(segments, event_ids):
        with segments.transaction():
            segment.begin()
            rows = list(
                segment.select(
                    f"SELECT id, outcomes FROM events WHERE state = {DEAD_LETTER} AND id IN ({placeholders(len(ids))})",  # noqa: S608
                    ids,
                )
            )
            segment.connection.executemany(
                "UPDATE events SET state = 0, attempts = 0, finished_at = NULL, available_at = ?, outcomes = ?"
                " WHERE id = ?",
                [(instant, outcomes.only_done(before), event_id) for event_id, before in rows],
            )
            segment.waiting += len(rows)
        yield len(rows)


def _dead_letters(segments: Segments) -> Iterator[tuple[Segment, list[int]]]:
    """All dead letters, in portions; what becomes one meanwhile may be left out."""
    for segment in list(segments):
        after = 0
        while segment in segments:  # it may be dropped between two steps
            ids = [event_id for (event_id,) in segment.select(_DEAD_LETTERS, (after, _RETRIED_IN_STEP))]
            if not ids:
                break
            after = ids[-1]
            yield segment, ids


def _portions(segments: Segments, event_ids: Sequence[int]) -> Iterator[tuple[Segment, list[int]]]:
    for segment, ids in _by_segment(segments, event_ids).items():
        for start in range(0, len(ids), _RETRIED_IN_STEP):
            if segment in segments:
                yield segment, ids[start : start + _RETRIED_IN_STEP]


def hasten(store: Store, component: str, *, now: datetime, limit: int) -> int:
    """Make events due that wait for a later time."""
    origins = [origin.id for origin in store.catalogue.origins() if origin.component == component]
    instant = to_microseconds(now)
    hastened = 0
    for segment in store.segments:
        segment.refresh()
        for origin in origins if segment.waiting else ():
            if hastened >= limit:
                return hastened
            segment.begin()
            segment.connection.execute(
                "UPDATE events SET available_at = ?1 WHERE id IN (SELECT id FROM events"
                " WHERE state = 0 AND origin = ?2 AND available_at > ?1 ORDER BY available_at LIMIT ?3)",
                (instant, origin, limit - hastened),
            )
            hastened += segment.connection.changes()
    return hastened


def bring_forward(
    store: Store, components: Collection[str], *, now: datetime, attempted_from: datetime
) -> Iterator[int]:
    """Make events due that wait for a later time; each step looks at a portion of them and tells how many it made due.

    It walks along the index of what is pending. What was attempted is not in there, so each of them is looked at.
    """
    origins = [origin.id for origin in store.catalogue.origins() if origin.component in components]
    instant, believed = to_microseconds(now), to_microseconds(attempted_from)
    for segment in list(store.segments):
        segment.refresh()
        for origin in origins if segment.waiting else ():
            place = (instant, sys.maxsize)
            while rows := list(segment.select(_LATER, (origin, *place, _PORTION))):
                place = rows[-1][:2]
                ids = [event_id for at, event_id, attempts in rows if attempts == 0 or at > believed]
                if ids:
                    # What a power cut undoes is done again at the start.
                    with store.segments.transaction(flushed=False):
                        segment.begin()
                        segment.connection.execute(
                            f"UPDATE events SET available_at = ? WHERE id IN ({placeholders(len(ids))})",  # noqa: S608
                            (instant, *ids),
                        )
                yield len(ids)


def wake_successors(store: Store, event_ids: Sequence[int], *, now: datetime) -> int:
    """Make the first pending event after each of some events due, of the same sender and person."""
    instant, woken = to_microseconds(now), 0
    following: dict[int, tuple[Segment, int]] = {}
    asked = _subjects(store.segments, event_ids)
    for segment, event_id, scope, subject, available_at in _pending_of(store.segments, asked):
        for earlier_id in asked[scope, subject]:
            if event_id > earlier_id and earlier_id not in following:
                following[earlier_id] = (segment, event_id if available_at > instant else 0)
    with store.segments.transaction(flushed=False):
        for segment, event_id in set(following.values()):
            if event_id:
                segment.begin()
                segment.connection.execute("UPDATE events SET available_at = ? WHERE id = ?", (instant, event_id))
                woken += 1
    return woken


def _pending_of(
    segments: Segments, asked: Mapping[tuple[int, str], Sequence[int]]
) -> Iterator[tuple[Segment, int, int, str, int]]:
    """Yield the pending events of senders and people, the oldest first: segment, id, scope, subject, when due."""
    for segment in segments:
        if not segment.waiting:
            continue
        found: list[tuple[int, int, str, int]] = []
        for subjects in chunks(sorted({subject for _, subject in asked})):
            found += segment.select(
                "SELECT id, scope, coalesce(person_hash, device_hash), available_at FROM events"  # noqa: S608
                f" WHERE id IN (SELECT id FROM people WHERE subject IN ({placeholders(len(subjects))})) AND state = 0",
                subjects,
            )
        for event_id, scope, subject, available_at in sorted(found):
            if (scope, subject) in asked:
                yield segment, event_id, scope, subject, available_at


def _subjects(segments: Segments, event_ids: Sequence[int]) -> dict[tuple[int, str], list[int]]:
    """Return the events by sender and person, or device."""
    asked: dict[tuple[int, str], list[int]] = defaultdict(list)
    for segment, ids in _by_segment(segments, event_ids).items():
        rows = segment.select(
            f"SELECT id, scope, coalesce(person_hash, device_hash) FROM events WHERE id IN ({placeholders(len(ids))})",  # noqa: S608
            ids,
        )
        for event_id, scope, subject in rows:
            if subject is not None:
                asked[scope, subject].append(event_id)
    return asked


def predecessors(segments: Segments, event_ids: Sequence[int]) -> dict[int, list[Predecessor]]:
    """Find the pending events of the same sender and person before each of some events."""
    asked = _subjects(segments, event_ids)
    found: dict[int, list[Predecessor]] = defaultdict(list)
    for segment in segments:
        if not segment.waiting:
            continue
        for subjects in chunks(sorted({subject for _, subject in asked})):
            rows = segment.select(
                "SELECT id, scope, coalesce(person_hash, device_hash), type, event, outcomes FROM events"  # noqa: S608
                f" WHERE id IN (SELECT id FROM people WHERE subject IN ({placeholders(len(subjects))})) AND state = 0"
                " ORDER BY id",
                subjects,
            )
            for event_id, scope, subject, kind, event, before in rows:
                finished = frozenset(outcome.handler for outcome in outcomes.read(before) if outcome.finished)
                earlier = Predecessor(event_id, kind, event, finished)
                for later_id in asked.get((scope, subject), ()):
                    if event_id < later_id:
                        found[later_id].append(earlier)
    return found


def _by_segment(segments: Segments, event_ids: Sequence[int]) -> dict[Segment, list[int]]:
    chosen: dict[Segment, list[int]] = defaultdict(list)
    for event_id in event_ids:
        segment = segments.of_event(event_id)
        if segment is not None:
            chosen[segment].append(event_id)
    return chosen
