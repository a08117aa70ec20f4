"""Events on their way out: claimed under a lease, settled under its fence."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from enable_with_segment.db.event_log.deletion import erased_through, reach
from enable_with_segment.db.event_log.instants import to_instant, to_microseconds
from enable_with_segment.db.event_log.records import ClaimedEvent, HandlerResult, Settlement
from enable_with_segment.db.event_log.sqlite import outcomes
from enable_with_segment.db.event_log.sqlite.beginning import Beginning, Candidate, was_attempted
from enable_with_segment.db.event_log.sqlite.catalogue import Catalogue
from enable_with_segment.db.event_log.sqlite.leases import Lease, Leases
from enable_with_segment.db.event_log.sqlite.segment import Segment, placeholders
from enable_with_segment.db.event_log.sqlite.segments import Segments
from enable_with_segment.db.event_log.sqlite.states import NUMBERS, PENDING
from enable_with_segment.db.event_log.sqlite.store import Store

_READ = (
    "SELECT id, origin, type, received_at, occurred_at, person_hash, device_hash, previous_hash, settings, attempts,"
    " outcomes, body FROM events LEFT JOIN bodies USING (id) WHERE id IN ({}) ORDER BY available_at, id"
)
_SETTLE = (
    "UPDATE events SET state = ?, attempts = ?, available_at = ?, finished_at = ?, last_error = ?, outcomes = ?"
    " WHERE id = ? AND state = 0"
)
_SENDERS = (
    "WITH RECURSIVE sender (origin) AS (SELECT min(origin) FROM events WHERE state = 0 UNION ALL"
    " SELECT (SELECT min(origin) FROM events WHERE state = 0 AND origin > sender.origin) FROM sender"
    " WHERE sender.origin IS NOT NULL) SELECT origin FROM sender WHERE origin IS NOT NULL"
)
_DUE = "SELECT id FROM events WHERE state = 0 AND origin = ? AND available_at <= ? ORDER BY available_at, id"
_AT_ONCE = 5_000


def claim(
    store: Store,
    components: Collection[str],
    *,
    limit: int,
    lease: str,
    now: datetime,
    until: datetime,
    skip: Collection[str] = (),
) -> list[ClaimedEvent]:
    """Take due events that nobody holds: from the senders in turns, the oldest of each first.

    Deletions wait until they may begin (``db.event_log.sqlite.beginning``).
    """
    origins = store.catalogue.origins_of(components, skip=skip)
    store.segments.refresh()
    waiting = sorted({origin for segment in store.segments if segment.waiting for origin in _senders(segment)})
    lines = [origin for origin in waiting if origins is None or origin in origins]
    if not lines or limit < 1:
        return []
    first = store.leases.next_turn() % len(lines)
    claimed: list[ClaimedEvent] = []
    with ExitStack() as stack, _all_or_none(claimed, store.leases, lease):
        due = deque(
            stack.enter_context(closing(_due_of(origin, store.segments, store.leases, now)))
            for origin in lines[first:] + lines[:first]
        )
        while due and len(claimed) < limit:
            portion = max(1, min((limit - len(claimed)) // len(due), _AT_ONCE))
            line = due.popleft()
            found = list(islice(line, min(portion, limit - len(claimed))))
            for segment, rows in groupby(found, key=itemgetter(0)):
                ids = [event_id for _, event_id in rows]
                claimed += _take(segment, store, ids, lease=lease, now=now, until=until)
            if len(found) == portion:
                due.append(line)
    return claimed


@contextmanager
def _all_or_none(claimed: Sequence[ClaimedEvent], leases: Leases, lease: str) -> Iterator[None]:
    """Take back what was handed out when the rest cannot be read: nobody hears of it."""
    try:
        yield
    except BaseException:
        leases.take_back([event.id for event in claimed], lease)
        raise


def _senders(segment: Segment) -> Iterator[int]:
    """The origins that have something pending: one look into the index for each, however much it has."""
    return (row[0] for row in segment.select(_SENDERS))


def _due_of(
    origin: int, segments: Segments, leases: Leases, now: datetime
) -> Generator[tuple[Segment, int], None, None]:
    """What is due of one origin, the oldest first.

    Held events are passed over, there are only so many of them; and deletions that certainly have to wait.
    """
    for segment in segments:
        if not segment.waiting:
            continue
        with closing(segment.select(_DUE, (origin, to_microseconds(now)))) as rows:
            for (event_id,) in rows:
                if not leases.is_held(event_id, now) and not leases.still_waits(event_id, now):
                    yield segment, event_id


def _due(
    what: str, segment: Segment, origins: list[int] | None, now: datetime
) -> Generator[tuple[Any, ...], None, None]:
    chosen = "" if origins is None else f" AND origin IN ({placeholders(len(origins))})"
    return segment.select(
        f"SELECT {what} FROM events WHERE state = 0 AND available_at <= ?{chosen}",  # noqa: S608
        (to_microseconds(now), *(origins or ())),
    )


def _take(
    segment: Segment,
    store: Store,
    ids: Sequence[int],
    *,
    lease: str,
    now: datetime,
    until: datetime,
) -> list[ClaimedEvent]:
    rows = list(segment.select(_READ.format(placeholders(len(ids))), ids))
    too_late, waiting = _look_after(rows, Beginning(store, now), store.catalogue)
    covered = _tombstones(store.catalogue, rows)  # those of the deletions that have just begun, too
    taken = []
    held: list[tuple[int, Lease]] = []
    for event_id, origin_id, kind, received, occurred, person, device, _, settings, attempts, before, body in rows:
        if event_id in waiting:
            continue
        origin = store.catalogue.origin(origin_id)
        subject = person or device
        occurred_at = to_instant(occurred)
        through = erased_through(
            kind,
            occurred_at,
            person=covered.get((origin.account, origin.component, subject)) if covered else None,
            merge=too_late.get(event_id),
        )
        earlier = outcomes.read(before)
        interrupted = store.leases.was_interrupted(event_id)
        holder = origin.account, origin.component, subject
        held.append((event_id, Lease(lease, until, *holder, occurred_at, attempts, before, interrupted)))
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
                finished=tuple(HandlerResult(o.handler, o.state, o.error) for o in earlier if o.finished),
                suppressed=through is not None,
                scope=origin.scope_name,
                unfinished=tuple(outcome for outcome in earlier if not outcome.finished),
                interrupted=interrupted,
                erased_through=through,
            )
        )
    store.leases.add(held)
    return taken


def _look_after(
    rows: Sequence[tuple[Any, ...]], beginning: Beginning, catalogue: Catalogue
) -> tuple[dict[int, datetime], set[int]]:
    """Look after deletes and merges: whether they are handed out, and as what.

    Returns:
        The merges that come too late for a deletion, and up to when that was; and the events that have to wait.
    """
    too_late: dict[int, datetime] = {}
    waiting: set[int] = set()
    for event_id, origin_id, kind, received, occurred, person, device, previous, _, attempts, before, _ in rows:
        if kind not in ("delete", "alias") or (kind == "alias" and not catalogue.has_tombstones()):
            continue
        occurred_at, received_at = to_instant(occurred), to_instant(received)
        origin, subject = catalogue.origin(origin_id), person or device or ""
        has_been = was_attempted(attempts, before)
        one = Candidate(event_id, kind, origin, subject, previous, occurred_at, received_at, has_been)
        through = reach(occurred_at, received_at)
        if kind == "alias":
            deleted_through = beginning.too_late_through(one)
            if deleted_through is None:
                continue
            through = too_late[event_id] = deleted_through
        if not beginning.may_begin(one, through):
            waiting.add(event_id)
    return too_late, waiting


def _tombstones(catalogue: Catalogue, rows: Sequence[tuple[Any, ...]]) -> dict[tuple[str, str, str], datetime]:
    """Up to when the people and devices of some events were deleted, for those that were."""
    if not catalogue.has_tombstones():
        return {}
    subjects: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        origin = catalogue.origin(row[1])
        subject = row[5] or row[6]
        if subject is not None:
            subjects[origin.account, origin.component].add(subject)
    return {
        (account, component, subject): max(one.through for one in asked)
        for (account, component), people in subjects.items()
        for subject, asked in catalogue.erasures(account, component, people).items()
    }


def settle(store: Store, settlements: Sequence[Settlement]) -> tuple[list[bool], Callable[[], None]]:
    """Record how attempts ended, for those whose lease is still the one they were claimed under.

    Returns:
        The answers, in order, and what has to be noted in memory once the transactions are committed.
    """
    rows: dict[Segment, list[tuple[Any, ...]]] = defaultdict(list)
    going_on: list[tuple[int, Lease]] = []
    for settlement in settlements:
        lease = store.leases.of(settlement.event_id, settlement.lease)
        segment = store.segments.of_event(settlement.event_id)
        if lease is None or segment is None:
            continue
        at = to_microseconds(settlement.at)
        attempts = lease.attempts + settlement.attempted
        merged = outcomes.merge(lease.outcomes, settlement.results, at)
        if settlement.erases_content:
            merged = outcomes.without_errors(merged)
        if settlement.keeps_lease:
            going_on.append((settlement.event_id, replace(lease, attempts=attempts, outcomes=merged, begun=False)))
        rows[segment].append(
            (
                NUMBERS[settlement.state],
                attempts,
                to_microseconds(settlement.available_at or settlement.at),
                None if NUMBERS[settlement.state] == PENDING else at,
                settlement.error,
                merged,
                settlement.event_id,
            )
        )
    erased = {settlement.event_id for settlement in settlements if settlement.erases_content}
    done: set[int] = set()
    finished: dict[Segment, int] = {}
    for segment, part in rows.items():
        segment.begin()
        changed = _settle_rows(segment, part)
        done |= changed
        finished[segment] = sum(1 for row in part if row[0] != PENDING and row[6] in changed)
        if erased & changed:
            segment.holds_deleted = True
            gone = [(event_id,) for event_id in erased & changed]
            segment.connection.executemany("DELETE FROM bodies WHERE id = ?", gone)
    # Before the commit: if that does not come, the deletion is handed out again and completed anew.
    store.catalogue.complete(
        (one.event_id, one.at) for one in settlements if one.ends_deletion and one.event_id in done
    )

    def committed() -> None:
        settled: dict[str, list[int]] = defaultdict(list)
        for settlement in settlements:
            settled[settlement.lease].append(settlement.event_id)
        for name, event_ids in settled.items():
            store.leases.end(event_ids, name)
        store.leases.add((event_id, lease) for event_id, lease in going_on if event_id in done)
        for segment, count in finished.items():
            segment.waiting -= count

    answers = []
    for settlement in settlements:
        ours = settlement.event_id in done and store.leases.of(settlement.event_id, settlement.lease) is not None
        answers.append(ours)
    return answers, committed


def _settle_rows(segment: Segment, rows: Sequence[tuple[Any, ...]]) -> set[int]:
    """Write the rows of events that are still pending; returns their ids."""
    connection = segment.connection
    connection.execute("SAVEPOINT settling")
    before = connection.total_changes()
    connection.executemany(_SETTLE, rows)
    if connection.total_changes() - before == len(rows):
        changed = {row[-1] for row in rows}
    else:  # somebody has settled one of them: look at each
        connection.execute("ROLLBACK TO settling")
        changed = {row[-1] for row in rows if list(connection.execute(f"{_SETTLE} RETURNING id", row))}
    connection.execute("RELEASE settling")
    return changed


def count_due(store: Store, now: datetime, components: Collection[str] | None = None) -> int:
    """Count the pending events whose time has come, held by somebody or not."""
    origins = None if components is None else store.catalogue.origins_of(components)
    return sum(
        row[0] for segment in store.segments if segment.waiting for row in _due("count(*)", segment, origins, now)
    )
