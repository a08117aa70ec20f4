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
from typing import Any, NamedTuple

from enable_with_segment.db.event_log.deletion import Candidate, Tenant, erased_through
from enable_with_segment.db.event_log.instants import to_instant, to_microseconds
from enable_with_segment.db.event_log.records import ClaimedEvent, HandlerResult, Settlement
from enable_with_segment.db.event_log.sqlite import deletion, outcomes
from enable_with_segment.db.event_log.sqlite.catalogue import Catalogue
from enable_with_segment.db.event_log.sqlite.leases import Lease, Leases
from enable_with_segment.db.event_log.sqlite.segment import Segment, placeholders
from enable_with_segment.db.event_log.sqlite.segments import Segments
from enable_with_segment.db.event_log.sqlite.states import NUMBERS, PENDING
from enable_with_segment.db.event_log.sqlite.store import Store


class _Row(NamedTuple):
    """A due event as it is read."""

    id: int
    origin: int
    type: str
    received_at: int
    occurred_at: int
    person_hash: str | None
    device_hash: str | None
    previous_hash: str | None
    settings: str | None
    attempts: int
    outcomes: str | None
    body: bytes | None

    @property
    def subject(self) -> str | None:
        """The person, or the device while no person is known."""
        return self.person_hash or self.device_hash


_READ = (
    f"SELECT {', '.join(_Row._fields)} FROM events LEFT JOIN bodies USING (id)"  # noqa: S608  our own names
    " WHERE id IN ({}) ORDER BY available_at, id"
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

    Deletions wait until they may begin (``db.event_log.deletion``).
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
    rows = [_Row._make(row) for row in segment.select(_READ.format(placeholders(len(ids))), ids)]
    has_tombstones = store.catalogue.has_tombstones()
    decided = deletion.decide(store, _candidates(store, rows, has_tombstones=has_tombstones), now=now)
    # After that, so that those of the deletions that have just begun are among them.
    deleted = _deleted(store.catalogue, rows) if has_tombstones else {}
    taken = []
    held: list[tuple[int, Lease]] = []
    for row in rows:
        if row.id in decided.waiting:
            continue
        origin = store.catalogue.origin(row.origin)
        occurred_at = to_instant(row.occurred_at)
        through = erased_through(
            row.type,
            occurred_at,
            person=deleted.get((origin.tenant, row.subject)) if deleted else None,
            merge=decided.late_merges.get(row.id),
        )
        earlier = outcomes.read(row.outcomes)
        interrupted = store.leases.was_interrupted(row.id)
        lease_of = Lease(lease, until, origin.tenant, row.subject, occurred_at, row.attempts, row.outcomes, interrupted)
        held.append((row.id, lease_of))
        taken.append(
            ClaimedEvent(
                id=row.id,
                lease=lease,
                type=row.type,
                account=origin.account,
                component=origin.component,
                key_id=origin.key_id,
                install_id=origin.install_id,
                received_at=to_instant(row.received_at),
                body=row.body or b"",
                settings={} if row.settings is None else json.loads(row.settings),
                attempts=row.attempts,
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


def _candidates(store: Store, rows: Sequence[_Row], *, has_tombstones: bool) -> Iterator[Candidate]:
    """Return the deletes, and the aliases if anybody was ever deleted."""
    for row in rows:
        if row.type == "delete" or (row.type == "alias" and has_tombstones):
            yield Candidate(
                event_id=row.id,
                type=row.type,
                tenant=store.catalogue.origin(row.origin).tenant,
                person=row.subject or "",
                other=row.previous_hash,
                occurred_at=to_instant(row.occurred_at),
                received_at=to_instant(row.received_at),
                has_begun=deletion.was_attempted(row.attempts, row.outcomes) or store.leases.was_interrupted(row.id),
            )


def _deleted(catalogue: Catalogue, rows: Sequence[_Row]) -> dict[tuple[Tenant, str | None], datetime]:
    """Return through when the people and devices of some events were deleted, for those that were."""
    subjects: dict[Tenant, set[str]] = defaultdict(set)
    for row in rows:
        if row.subject is not None:
            subjects[catalogue.origin(row.origin).tenant].add(row.subject)
    return {
        (tenant, subject): max(one.through for one in tombstones)
        for tenant, people in subjects.items()
        for subject, tombstones in catalogue.tombstones(tenant, people).items()
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
