"""Events on their way out: claimed under a lease, settled under its fence."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from typing import Any

from db.event_log.records import ClaimedEvent, Settlement
from db.event_log.sqlite import outcomes
from db.event_log.sqlite.catalogue import Catalogue, Origin
from db.event_log.sqlite.instants import to_instant, to_microseconds
from db.event_log.sqlite.leases import Lease, Leases
from db.event_log.sqlite.segment import PENDING, SUPPRESSED, Segment, placeholders
from db.event_log.sqlite.segments import Segments
from db.event_log.sqlite.states import NUMBERS
from db.event_log.tombstone import Tombstone

_READ = (
    "SELECT id, origin, type, received_at, occurred_at, person_hash, device_hash, settings, attempts, outcomes, body"
    " FROM events LEFT JOIN bodies USING (id) WHERE id IN ({}) ORDER BY available_at, id"
)
_SETTLE = (
    "UPDATE events SET state = ?, attempts = ?, available_at = ?, finished_at = ?, last_error = ?, outcomes = ?"
    " WHERE id = ? AND state = 0 RETURNING id"
)
_AT_ONCE = 5_000


def claim(
    segments: Segments,
    catalogue: Catalogue,
    leases: Leases,
    components: Collection[str],
    *,
    limit: int,
    lease: str,
    now: datetime,
    until: datetime,
) -> list[ClaimedEvent]:
    """Take due events that nobody holds, the oldest first.

    A delete waits while somebody still works on an event that it covers, whose handler could otherwise write the
    person back after they were erased; and for every alias that it covers, which tells what else is to be erased.
    """
    claimed: list[ClaimedEvent] = []
    origins = catalogue.origins_of(components)
    for segment in segments:
        if len(claimed) >= limit:
            break
        if not segment.waiting:
            continue
        # Held events and waiting deletes are passed over, so there are at most that many more to look at.
        with closing(_due("id", segment, origins, now, order="ORDER BY available_at, id")) as rows:
            due = (row[0] for row in rows if not leases.is_held(row[0], now))
            while len(claimed) < limit and (ids := list(islice(due, min(limit - len(claimed), _AT_ONCE)))):
                claimed += _take(segment, segments, catalogue, leases, ids, lease=lease, now=now, until=until)
    return claimed


def _due(
    what: str, segment: Segment, origins: list[int] | None, now: datetime, *, order: str = ""
) -> Generator[tuple[Any, ...], None, None]:
    chosen = "" if origins is None else f" AND origin IN ({placeholders(len(origins))})"
    return segment.select(
        f"SELECT {what} FROM events WHERE state = 0 AND available_at <= ?{chosen} {order}",  # noqa: S608
        (to_microseconds(now), *(origins or ())),
    )


def _take(
    segment: Segment,
    segments: Segments,
    catalogue: Catalogue,
    leases: Leases,
    ids: Sequence[int],
    *,
    lease: str,
    now: datetime,
    until: datetime,
) -> list[ClaimedEvent]:
    rows = list(segment.select(_READ.format(placeholders(len(ids))), ids))
    covered = _tombstones(catalogue, rows)
    taken = []
    held = []
    for event_id, origin_id, kind, received, occurred, person, device, settings, attempts, before, body in rows:
        origin = catalogue.origin(origin_id)
        subject = person or device
        occurred_at = to_instant(occurred)
        if kind == "delete" and _has_to_wait(segments, catalogue, leases, event_id, origin, now=now):
            continue
        tombstone = covered.get((origin.account, origin.component, subject)) if covered else None
        held.append(
            (event_id, Lease(lease, until, origin.account, origin.component, subject, occurred_at, attempts, before))
        )
        taken.append(
            ClaimedEvent(
                id=event_id,
                lease=lease,
                type=kind,
                account=origin.account,
                component=origin.component,
                key_id=origin.key_id,
                install_id=origin.install_id,
                received_at=to_instant(received),
                body=body or b"",
                settings={} if settings is None else json.loads(settings),
                attempts=attempts,
                finished=outcomes.finished(before),
                suppressed=tombstone is not None and tombstone.covers(event_type=kind, occurred_at=occurred_at),
            )
        )
    for event_id, taken_lease in held:
        leases.add(event_id, taken_lease)
    return taken


def _tombstones(catalogue: Catalogue, rows: Sequence[tuple[Any, ...]]) -> dict[tuple[str, str, str], Tombstone]:
    if not catalogue.has_tombstones():
        return {}
    subjects: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        origin = catalogue.origin(row[1])
        subject = row[5] or row[6]
        if subject is not None:
            subjects[origin.account, origin.component].add(subject)
    return {
        (account, component, subject): tombstone
        for (account, component), people in subjects.items()
        for subject, (tombstone, _) in catalogue.tombstones(account, component, people).items()
    }


def _has_to_wait(
    segments: Segments, catalogue: Catalogue, leases: Leases, event_id: int, origin: Origin, *, now: datetime
) -> bool:
    erased = catalogue.erased_by(event_id)
    if leases.work_on(origin.account, origin.component, erased, now):
        return True
    for segment in segments:
        if not segment.waiting:
            continue
        rows = segment.select(
            "SELECT id, origin, coalesce(person_hash, device_hash), occurred_at FROM events"  # noqa: S608
            f" WHERE coalesce(person_hash, device_hash) IN ({placeholders(len(erased))})"
            " AND state = 0 AND type = 'alias'",
            list(erased),
        )
        for alias_id, origin_id, subject, occurred in rows:
            other = catalogue.origin(origin_id)
            same = (other.account, other.component) == (origin.account, origin.component)
            if same and alias_id != event_id and to_instant(occurred) <= erased[subject]:
                return True
    return False


def settle(
    segments: Segments, leases: Leases, settlements: Sequence[Settlement]
) -> tuple[list[bool], Callable[[], None]]:
    """Record how attempts ended, for those whose lease is still the one they were claimed under.

    Returns:
        The answers, in order, and what has to be noted in memory once the transactions are committed.
    """
    rows: dict[Segment, list[tuple[Any, ...]]] = defaultdict(list)
    for settlement in settlements:
        lease = leases.of(settlement.event_id, settlement.lease)
        segment = segments.of_event(settlement.event_id)
        if lease is None or segment is None:
            continue
        at = to_microseconds(settlement.at)
        pending = settlement.available_at is None or settlement.available_at == settlement.at
        rows[segment].append(
            (
                NUMBERS[settlement.state],
                lease.attempts + 1,
                at if pending or settlement.available_at is None else to_microseconds(settlement.available_at),
                None if NUMBERS[settlement.state] == PENDING else at,
                settlement.error,
                outcomes.merge(lease.outcomes, settlement.results, at),
                settlement.event_id,
            )
        )
    done: set[int] = set()
    finished: dict[Segment, int] = {}
    for segment, part in rows.items():
        segment.begin()
        changed = {row[0] for row in segment.connection.executemany(_SETTLE, part)}
        done |= changed
        finished[segment] = sum(1 for row in part if row[0] != PENDING and row[6] in changed)
        suppressed = [(row[6],) for row in part if row[0] == SUPPRESSED and row[6] in changed]
        if suppressed:
            segment.connection.executemany("DELETE FROM bodies WHERE id = ?", suppressed)

    def committed() -> None:
        for settlement in settlements:
            leases.end([settlement.event_id], settlement.lease)
        for segment, count in finished.items():
            segment.waiting -= count

    answers = []
    for settlement in settlements:
        ours = settlement.event_id in done and leases.of(settlement.event_id, settlement.lease) is not None
        answers.append(ours)
    return answers, committed


def count_due(
    segments: Segments, catalogue: Catalogue, now: datetime, components: Collection[str] | None = None
) -> int:
    """Count the pending events whose time has come, held by somebody or not."""
    origins = None if components is None else catalogue.origins_of(components)
    return sum(row[0] for segment in segments if segment.waiting for row in _due("count(*)", segment, origins, now))
