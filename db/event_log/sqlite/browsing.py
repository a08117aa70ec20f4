"""The operator's questions to the event log."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from enable_with_segment.db.event_log.deletion import work_of
from enable_with_segment.db.event_log.instants import to_instant, to_microseconds
from enable_with_segment.db.event_log.message_key import key_of_message
from enable_with_segment.db.event_log.records import (
    Backlog,
    Deletion,
    EventCounts,
    EventDetail,
    EventFilter,
    EventPage,
    EventRecord,
    Proof,
)
from enable_with_segment.db.event_log.sqlite import deletion, outcomes
from enable_with_segment.db.event_log.sqlite.catalogue import Catalogue
from enable_with_segment.db.event_log.sqlite.segment import Segment, placeholders
from enable_with_segment.db.event_log.sqlite.segments import Segments
from enable_with_segment.db.event_log.sqlite.states import (
    DEAD_LETTER,
    NUMBERS,
    PENDING,
    REPEATED_DELETE,
    STATES,
    SUPPRESSED,
    UNSUPPORTED,
)
from enable_with_segment.db.event_log.sqlite.store import Store
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.db.event_log.storable_text import storable

_RECORD = (
    "events.id, message_id, received_at, occurred_at, origin, type, event, state, attempts, available_at, finished_at,"
    " last_error, duplicates, differing_duplicates, replays, bodies.id IS NULL"
)
_FROM = "FROM events LEFT JOIN bodies ON bodies.id = events.id"
_MESSAGES = "messages JOIN events USING (id)"
_OF_MESSAGE = "events.id IN (SELECT id FROM messages WHERE key = ?)"
#: An event that an index leads to takes as long as so many that are passed in the order of their ids, or more where the
#: disk has to be asked for each: they stand far apart.
_LOOK_UP = 100
_COUNTS = (  # one pass; GROUP BY would sort them first
    f"SELECT sum(duplicates), count(*) FILTER (WHERE state = {PENDING} AND available_at <= ?), "  # noqa: S608
    + ", ".join(f"count(*) FILTER (WHERE state = {state})" for state in STATES)
    + " FROM events NOT INDEXED WHERE id >= ? AND id < ?"
)
_COUNTED_IN_STEP = 5_000
_CHUNK = 500
_HIGHEST_ID = 2**63 - 1


def search(
    store: Store,
    wanted: EventFilter,
    *,
    limit: int,
    before_id: int | None,
    most: int,
) -> EventPage:
    """Return the newest events that match, from at most so many events below an id; the newest first."""
    if _origins(store.catalogue, wanted) == []:
        return EventPage()
    condition, values = _condition(store.catalogue, wanted)
    records: list[EventRecord] = []
    below = _HIGHEST_ID if before_id is None else min(before_id, _HIGHEST_ID)
    oldest_id = below
    for segment in store.segments.newest_first():
        oldest_id = segment.first_id
        if oldest_id >= below:
            continue
        if most <= 0 or len(records) >= limit:
            break
        stretch = _stretch(segment, wanted, below, most)
        if stretch.events or (wanted.message_id is not None and segment.may_hold(key_of_message(wanted.message_id))):
            rows = segment.select(
                f"SELECT {_RECORD} {_FROM} WHERE events.id IN (SELECT id FROM events {stretch.index}"  # noqa: S608
                f" WHERE id >= ? AND id < ? AND {condition} ORDER BY id DESC LIMIT ?) ORDER BY events.id DESC",
                (stretch.first_id, below, *values, limit - len(records)),
            )
            records += [_record(store.catalogue, row) for row in rows]
        most -= stretch.events
        below = stretch.first_id
    if len(records) >= limit:
        below = records[-1].id
    if below <= oldest_id:
        return EventPage(tuple(records))
    return EventPage(tuple(records), below, _received_at(store.segments, below))


@dataclass(frozen=True, slots=True)
class _Stretch:
    """What a search looks through in one segment: from which id on, by which index, and how many events that are."""

    first_id: int
    index: str
    events: int


def _stretch(segment: Segment, wanted: EventFilter, below: int, most: int) -> _Stretch:
    if wanted.message_id is not None:
        return _Stretch(segment.first_id, "NOT INDEXED", 0)  # found by its key
    each = _LOOK_UP if _needs_rows(wanted) else 1
    if wanted.state is EventState.PENDING:
        # Its index is in another order, so all of them are looked through, or the newest events of any state.
        ((pending,),) = segment.select(
            "SELECT count(*) FROM (SELECT id FROM events INDEXED BY waiting WHERE state = 0 LIMIT ?)",
            (most // each + 1,),
        )
        if pending * each <= most:
            return _Stretch(segment.first_id, "INDEXED BY waiting", pending * each)
    elif wanted.state is not None and wanted.state is not EventState.HANDLED:
        index = f"INDEXED BY {'dead_letters' if wanted.state is EventState.DEAD_LETTER else 'rare'}"
        ((events, first_id),) = segment.select(
            f"SELECT count(*), min(id) FROM (SELECT id FROM events {index}"  # noqa: S608
            f" WHERE {_in_state(wanted.state)} AND id < ? ORDER BY id DESC LIMIT ?)",
            (below, reach := max(1, most // each)),
        )
        return _Stretch(first_id if events == reach else segment.first_id, index, events * each)
    ((newest,),) = segment.select("SELECT max(id) FROM events WHERE id < ?", (below,))
    end_id = segment.first_id if newest is None else newest + 1
    first_id = max(segment.first_id, end_id - most)
    return _Stretch(first_id, "NOT INDEXED", end_id - first_id)


def _needs_rows(wanted: EventFilter) -> bool:
    """Tell whether the indexes of states, which know ids and origins, are not enough to decide."""
    in_rows = (wanted.type, wanted.event, wanted.received_from, wanted.received_before)
    return any(value is not None for value in in_rows)


def _received_at(segments: Segments, event_id: int) -> datetime | None:
    """Tell when the first event from an id on was received."""
    segment = segments.of_event(event_id)
    found = segment and segment.first("SELECT received_at FROM events WHERE id >= ? ORDER BY id LIMIT 1", (event_id,))
    return to_instant(found[0]) if found else None


def tail(store: Store, after_id: int, wanted: EventFilter, *, limit: int) -> list[EventRecord]:
    """Return matching events after an id, in the order of arrival."""
    condition, values = _condition(store.catalogue, wanted)
    found: list[EventRecord] = []
    for segment in store.segments:
        if len(found) >= limit:
            break
        rows = segment.select(
            f"SELECT {_RECORD} {_FROM} WHERE events.id > ? AND {condition} ORDER BY events.id LIMIT ?",
            (after_id, *values, limit - len(found)),
        )
        found += [_record(store.catalogue, row) for row in rows]
    return found


def show(store: Store, message_id: str) -> list[EventDetail]:
    """Return every event of a message id with its body and outcomes."""
    key = key_of_message(message_id)
    holding = (segment for segment in store.segments if segment.may_hold(key))
    return [detail for segment in holding for detail in _details(segment, store.catalogue, _OF_MESSAGE, key)]


def deletion_of(store: Store, event_id: int) -> Deletion | None:
    """Return the deletion that does the work of a delete (``db.event_log.deletion.work_of``)."""
    segment = store.segments.of_event(event_id)
    own = "SELECT origin, person_hash, min(occurred_at, received_at) FROM events WHERE id = ?"
    row = None if segment is None else segment.first(own, (event_id,))
    if row is None:
        return None
    origin, person, through = row
    tombstones = deletion.tombstones(store, store.catalogue.origin(origin).tenant, person or "")
    work = work_of(event_id, to_instant(through), tombstones)
    if work is None:
        return None
    segment = store.segments.of_event(work.event_id)
    details = [] if segment is None else list(_details(segment, store.catalogue, "events.id = ?", work.event_id))
    return Deletion(work.event_id, work.completed_at is not None, details[0] if details else None)


def _details(segment: Segment, catalogue: Catalogue, condition: str, value: object) -> Iterator[EventDetail]:
    for row in segment.select(
        f"SELECT {_RECORD}, body, settings, outcomes {_FROM} WHERE {condition} ORDER BY events.id",
        (value,),
    ):
        body, settings, handlers = row[-3:]
        yield EventDetail(
            _record(catalogue, row[:-3]), body, json.loads(settings or "{}"), tuple(outcomes.read(handlers))
        )


def prove(segments: Segments, message_ids: Sequence[str]) -> Proof:
    """Compare message ids with the log: which never arrived, and which are not finished with."""
    wanted = list(dict.fromkeys(message_ids))
    keys = [key_of_message(message_id) for message_id in wanted]
    states: dict[bytes, set[int]] = defaultdict(set)
    for segment in segments:
        asked = [key for key in keys if segment.may_hold(key)]
        for start in range(0, len(asked), _CHUNK):
            part = asked[start : start + _CHUNK]
            rows = segment.select(
                f"SELECT events.key, state FROM {_MESSAGES} WHERE messages.key IN ({placeholders(len(part))})",  # noqa: S608
                part,
            )
            for key, state in rows:
                states[key].add(state)
    pairs = list(zip(wanted, keys, strict=True))
    return Proof(
        checked=len(wanted),
        missing=tuple(message_id for message_id, key in pairs if key not in states),
        unhandled=tuple(message_id for message_id, key in pairs if states.get(key, set()) & {PENDING, DEAD_LETTER}),
    )


def counts(segments: Segments, now: datetime) -> Iterator[EventCounts]:
    """Count events by state, and those that are due; each step counts a portion of all events."""
    instant = to_microseconds(now)
    for segment in list(segments):
        first_id = segment.first_id
        # Between two steps it may be dropped, or another process may add to it.
        while segment in segments and segment.first("SELECT 1 FROM events WHERE id >= ? LIMIT 1", (first_id,)):
            ((duplicates, due, *numbers),) = segment.select(_COUNTS, (instant, first_id, first_id + _COUNTED_IN_STEP))
            by_state = {state: number for state, number in zip(STATES.values(), numbers, strict=True) if number}
            yield EventCounts(by_state, duplicates or 0, due)
            first_id += _COUNTED_IN_STEP


def backlog(segments: Segments) -> Backlog:
    """Tell how much is pending, and since when.

    Only the partial indexes are read, of pending events that of one segment, and one row.
    """
    segments.refresh()
    pending = dead_letters = 0
    oldest: int | None = None
    for segment in segments:
        ((dead,),) = segment.select("SELECT count(*) FROM events WHERE state = 5")
        dead_letters += dead
        pending += segment.waiting
        if segment.waiting and oldest is None:
            ((oldest,),) = segment.select(
                "SELECT received_at FROM events WHERE id = (SELECT min(id) FROM events WHERE state = 0)"
            )
    return Backlog(pending, dead_letters, None if oldest is None else to_instant(oldest))


def count_pending(segments: Segments, most: int) -> int:
    """Count pending events, but no further than ``most``. Each segment knows how many it has."""
    segments.refresh()
    return min(sum(segment.waiting for segment in segments), most)


def _condition(catalogue: Catalogue, wanted: EventFilter) -> tuple[str, list[object]]:
    parts, values = ["TRUE"], list[object]()
    if wanted.state is not None:
        parts.append(_in_state(wanted.state))
    if wanted.type is not None:
        parts.append("type = ?")
        values.append(wanted.type)
    if wanted.event is not None:
        parts.append("event = ?")
        values.append(storable(wanted.event))
    for comparison, instant in ((">=", wanted.received_from), ("<", wanted.received_before)):
        if instant is not None:
            parts.append(f"received_at {comparison} ?")
            values.append(to_microseconds(instant))
    if wanted.message_id is not None:
        parts.append(_OF_MESSAGE)
        values.append(key_of_message(wanted.message_id))
    origins = _origins(catalogue, wanted)
    if origins is not None:
        parts.append(f"origin IN ({placeholders(len(origins))})")
        values += origins
    return " AND ".join(parts), values


def _origins(catalogue: Catalogue, wanted: EventFilter) -> list[int] | None:
    """Return the ids of the origins that a filter lets through; ``None`` where it lets all of them."""
    of_origin = {"account": wanted.account, "component": wanted.component, "install_id": wanted.install_id}
    asked = {name: value for name, value in of_origin.items() if value is not None}
    if not asked:
        return None
    return [
        origin.id
        for origin in catalogue.origins()
        if all(getattr(origin, name) == value for name, value in asked.items())
    ]


def _in_state(state: EventState) -> str:
    """Compare with a state as SQLite has to see it in order to find that a partial index fits: written out."""
    number = NUMBERS[state]
    is_rare = number in (UNSUPPORTED, SUPPRESSED, REPEATED_DELETE)
    return f"state = {number}" + (" AND state > 1 AND state < 5" if is_rare else "")


def _record(catalogue: Catalogue, row: Sequence[Any]) -> EventRecord:
    (
        event_id,
        message_id,
        received_at,
        occurred_at,
        origin_id,
        kind,
        event,
        state,
        attempts,
        available_at,
        finished_at,
        last_error,
        duplicates,
        differing,
        replays,
        erased,
    ) = row
    origin = catalogue.origin(origin_id)
    return EventRecord(
        id=event_id,
        message_id=message_id,
        received_at=to_instant(received_at),
        occurred_at=to_instant(occurred_at),
        account=origin.account,
        component=origin.component,
        key_id=origin.key_id,
        install_id=origin.install_id,
        type=kind,
        event=event,
        state=STATES[state],
        attempts=attempts,
        available_at=to_instant(available_at),
        finished_at=None if finished_at is None else to_instant(finished_at),
        last_error=last_error,
        duplicates=duplicates,
        differing_duplicates=differing,
        replays=replays,
        erased=bool(erased),
    )
