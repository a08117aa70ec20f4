"""Deletions in PostgreSQL: its answers to the deletion rules (``db.event_log.deletion``), and erasing events.

Tombstones are written in the transaction that stores the delete, so every event that is claimed afterwards is seen to
be covered. Ids are keyed hashes. The clear ids are only in the bodies, which are removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from enable_with_segment.db.event_log import deletion as rules
from enable_with_segment.db.event_log.deletion import (
    Candidate,
    Decisions,
    Link,
    Repetition,
    Tenant,
    Tombstone,
    Undecided,
    covered_ids,
    reach,
)
from enable_with_segment.db.event_log.postgresql.statements import (
    ERASURES,
    OLDEST_PENDING,
    SUBJECT,
    is_any,
    is_any_of,
)
from enable_with_segment.db.event_log.records import NewEvent
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.db.event_log.tables import Erasure, HandlerOutcome, StoredBody, StoredEvent

_AT_ONCE = 20
"""Candidates in one claim. Each takes a few queries, and the other events of the claim wait for them."""

_UNTIL_CONFIRMED = timedelta(seconds=30)
"""How long a delete that may be a repetition is not handed out: longer than it takes to confirm that."""

#: Whether the event has tombstones of its own.
_IS_DELETION = exists().where(col(Erasure.event_id) == col(StoredEvent.id))

#: Whether a handler was called. A dead letter that is retried from attempt 0 keeps the handlers that were done.
_WAS_ATTEMPTED = or_(col(StoredEvent.attempts) > 0, exists().where(col(HandlerOutcome.event_id) == col(StoredEvent.id)))

#: Events, as far as a deletion needs to know them.
_ERASED = select(
    col(StoredEvent.id),
    col(StoredEvent.type),
    col(StoredEvent.state),
    and_(col(StoredEvent.type) == "alias", _IS_DELETION).label("is_deletion"),
    SUBJECT.label("subject"),
    col(StoredEvent.occurred_at),
)


class _Event(NamedTuple):
    """What ``_ERASED`` returns of an event."""

    id: int
    type: str
    state: EventState
    is_deletion: bool
    subject: str
    occurred_at: datetime


class Covered(NamedTuple):
    """The events that a deletion erases, the oldest first, and how many ids it covers beside the person's."""

    merged_ids: int
    event_ids: Sequence[int]


class PostgresDeletions:
    """Implements ``DeletionStore`` in one transaction.

    Args:
        now: when a lease ends; only ``has_to_wait`` needs it.
    """

    is_shared = True

    def __init__(self, connection: AsyncConnection, *, now: datetime | None = None) -> None:
        self._connection = connection
        self._now = now
        self._oldest_pending: int | None = None

    async def covered_by(self, deletion_id: int) -> dict[str, datetime]:
        statement = select(col(Erasure.person_hash), col(Erasure.erased_through))
        rows = await self._connection.execute(statement.where(col(Erasure.event_id) == deletion_id))
        return {row.person_hash: row.erased_through for row in rows}

    async def tombstones(self, tenant: Tenant, subject: str) -> Sequence[Tombstone]:
        statement = (
            select(
                col(Erasure.event_id),
                col(Erasure.erased_through),
                col(Erasure.requested_at),
                col(Erasure.completed_at),
                col(StoredEvent.state),
            )
            .outerjoin(StoredEvent, col(StoredEvent.id) == col(Erasure.event_id))
            .where(
                col(Erasure.account) == tenant.account,
                col(Erasure.component) == tenant.component,
                col(Erasure.person_hash) == subject,
            )
            .order_by(col(Erasure.event_id).desc())
        )
        return [Tombstone(*row) for row in await self._connection.execute(statement)]

    async def write_tombstones(
        self, deletion_id: int, tenant: Tenant, hashes: Iterable[str], *, through: datetime, requested_at: datetime
    ) -> None:
        shared = {**tenant._asdict(), "event_id": deletion_id, "erased_through": through, "requested_at": requested_at}
        rows = [{**shared, "person_hash": person_hash} for person_hash in sorted(hashes)]
        await self._connection.execute(insert(ERASURES).on_conflict_do_nothing(), rows)

    async def extend_tombstones(self, deletion_id: int, hashes: Collection[str], through: datetime) -> None:
        extended = (
            col(Erasure.event_id) == deletion_id,
            is_any_of(col(Erasure.person_hash), hashes),
            col(Erasure.erased_through) < through,
        )
        await self._connection.execute(update(Erasure).where(*extended).values(erased_through=through))

    async def links(self, tenant: Tenant, people: Collection[str], through: datetime) -> Collection[Link]:
        statement = select(col(StoredEvent.previous_hash), col(StoredEvent.device_hash)).where(
            *_is_of(tenant, people),
            col(StoredEvent.occurred_at) <= through,
            is_any_of(col(StoredEvent.person_hash), people),
        )
        return [Link(*row) for row in await self._connection.execute(statement.distinct())]

    async def may_have_links(self, deletion: Candidate, covered: Collection[str]) -> bool:  # noqa: ARG002
        return True  # another process may have stored an event under a lower id, and committed it after the delete

    async def has_newer(self, tenant: Tenant, hashes: Collection[str], instant: datetime) -> bool:
        newer = exists().where(
            *_is_of(tenant, hashes),
            col(StoredEvent.type) != "delete",
            col(StoredEvent.occurred_at) > instant,
        )
        return bool((await self._connection.execute(select(newer))).scalar_one())

    async def has_waiting_delete(self, event_ids: Collection[int]) -> bool:
        waiting = select(col(StoredEvent.id)).where(
            is_any(StoredEvent.id, event_ids),
            col(StoredEvent.type) == "delete",
            col(StoredEvent.state) == EventState.PENDING,
            col(StoredEvent.lease).is_(None),
            ~_WAS_ATTEMPTED,
        )
        found = (await self._connection.execute(waiting)).all()
        locked = waiting.with_for_update(read=True, skip_locked=True)
        if found and len((await self._connection.execute(locked)).all()) < len(found):
            raise Undecided
        return bool(found)

    async def has_to_wait(self, deletion: Candidate, covered: dict[str, datetime], *, for_merges: bool) -> bool:
        others = (
            col(StoredEvent.id) >= await self._oldest(),
            col(StoredEvent.id) != deletion.event_id,
            col(StoredEvent.state) == EventState.PENDING,
            *_is_of(deletion.tenant, covered),
        )
        is_merge = and_(col(StoredEvent.type) == "alias", ~_IS_DELETION).label("is_merge")
        statement = select(col(StoredEvent.id), SUBJECT.label("subject"), col(StoredEvent.occurred_at), is_merge)
        rows = await self._connection.execute(statement.where(*others))
        found = {row.id: row.is_merge for row in rows if row.occurred_at <= covered[row.subject]}
        if for_merges and any(found.values()):
            return True
        free = select(col(StoredEvent.id)).where(
            is_any(StoredEvent.id, found),
            col(StoredEvent.state) == EventState.PENDING,
            col(StoredEvent.leased_until).is_(None) | (col(StoredEvent.leased_until) <= self._now),
        )
        locked = (await self._connection.execute(free.with_for_update(skip_locked=True))).scalars().all()
        return len(locked) < len(found)

    async def _oldest(self) -> int:
        """Return the lowest pending id. It is asked for after the candidates are locked: by then each event is pending
        that another process claimed before it could see their tombstones."""
        if self._oldest_pending is None:
            self._oldest_pending = (await self._connection.execute(OLDEST_PENDING)).scalar() or 0
        return self._oldest_pending


async def decide(
    connection: AsyncConnection, event_ids: Sequence[int], *, begun: Collection[int], now: datetime
) -> Decisions:
    """Decide which deletes and aliases are handed out; writes the tombstones of deletions that are about to begin.

    Args:
        event_ids: deletes and aliases that are locked. Those beyond the first few have to wait.
        begun: those of them that were leased before.
    """
    candidates = await _candidates(connection, event_ids, begun) if event_ids else []
    decided = await rules.decide(PostgresDeletions(connection, now=now), candidates[:_AT_ONCE])
    decided.waiting.update(candidate.event_id for candidate in candidates[_AT_ONCE:])
    return decided


async def _candidates(
    connection: AsyncConnection, event_ids: Sequence[int], begun: Collection[int]
) -> Sequence[Candidate]:
    """Return the deletes, and the aliases of people who were deleted, in the order of their ids in ``event_ids``."""
    was_deleted = exists().where(
        col(Erasure.account) == col(StoredEvent.account),
        col(Erasure.component) == col(StoredEvent.component),
        col(Erasure.person_hash) == SUBJECT,
    )
    statement = select(
        col(StoredEvent.id),
        col(StoredEvent.type),
        col(StoredEvent.account),
        col(StoredEvent.component),
        func.coalesce(SUBJECT, "").label("person"),
        col(StoredEvent.previous_hash),
        col(StoredEvent.occurred_at),
        col(StoredEvent.received_at),
        (_WAS_ATTEMPTED | is_any(StoredEvent.id, begun)).label("has_begun"),
    ).where(is_any(StoredEvent.id, event_ids), or_(col(StoredEvent.type) == "delete", was_deleted))
    rows = {row.id: row for row in await connection.execute(statement)}
    return [
        Candidate(
            event_id=row.id,
            type=row.type,
            tenant=Tenant(row.account, row.component),
            person=row.person,
            other=row.previous_hash,
            occurred_at=row.occurred_at,
            received_at=row.received_at,
            has_begun=row.has_begun,
        )
        for row in map(rows.get, event_ids)
        if row is not None
    ]


async def request(connection: AsyncConnection, event_id: int, delete: NewEvent) -> Repetition | None:
    """Write the tombstones of a delete that was just stored, or recognise a further message of the same deletion.

    Returns:
        What :func:`confirm` has to look at once this transaction is committed. An event may be stored, and handled,
        while this one is not committed, and neither sees the other. Without that, the delete is handed out a little
        later as a deletion of its own.
    """
    repetition = await rules.request(PostgresDeletions(connection), event_id, delete)
    if repetition is not None:
        available_at = delete.received_at + _UNTIL_CONFIRMED
        own = col(StoredEvent.id) == event_id
        await connection.execute(update(StoredEvent).where(own).values(available_at=available_at))
    return repetition


async def confirm(connection: AsyncConnection, repetition: Repetition) -> None:
    """Finish a delete that repeats an earlier one, or make it a deletion of its own after all.

    Its tombstones are committed, and cover every event that is claimed from here on. So it is enough to look at the
    events that are stored.
    """
    event_id, delete, first_id, known_through = repetition
    store = PostgresDeletions(connection)
    own = col(StoredEvent.id) == event_id
    untouched = select(col(StoredEvent.id)).where(
        own, col(StoredEvent.state) == EventState.PENDING, col(StoredEvent.lease).is_(None)
    )
    if (await connection.execute(untouched.with_for_update())).scalar_one_or_none() is None:
        return  # it is being handled already
    tenant, through = Tenant(delete.account, delete.component), reach(delete.occurred_at, delete.received_at)
    hashes = await covered_ids(store, tenant, delete.person_hash or "", through)
    if await store.has_newer(tenant, hashes, known_through):
        await store.write_tombstones(event_id, tenant, hashes, through=through, requested_at=delete.received_at)
        await connection.execute(update(StoredEvent).where(own).values(available_at=delete.received_at))
        # The first one does not wait for anything newer, so it must not erase an event that is leased.
        extended = (
            col(Erasure.event_id) == first_id,
            is_any_of(col(Erasure.person_hash), hashes),
            col(Erasure.erased_through) == through,
        )
        await connection.execute(update(Erasure).where(*extended).values(erased_through=known_through))
        return
    at = delete.received_at
    finished = {"state": EventState.REPEATED_DELETE, "available_at": at, "finished_at": at, "erased": True}
    await connection.execute(update(StoredEvent).where(own).values(finished))
    await connection.execute(sql_delete(StoredBody).where(col(StoredBody.id) == event_id))


async def find_covered(
    connection: AsyncConnection, event_id: int, lease: str, *, spares_deletes: bool
) -> Covered | None:
    """Return the events that a deletion erases; ``None`` if its lease is lost.

    Args:
        spares_deletes: keep dead-lettered deletes.
    """
    held = select(col(StoredEvent.account), col(StoredEvent.component)).where(*_is_held(event_id, lease))
    tenant = (await connection.execute(held)).first()
    if tenant is None:
        return None
    covered = await PostgresDeletions(connection).covered_by(event_id)
    statement = _ERASED.where(*_is_of(Tenant(*tenant), covered)).order_by(col(StoredEvent.id))
    events = map(_Event._make, await connection.execute(statement))
    covers = [event for event in events if event.occurred_at <= covered[event.subject]]
    return Covered(max(0, len(covered) - 1), _erasable(covers, spares_deletes=spares_deletes))


async def erase(
    connection: AsyncConnection, event_id: int, lease: str, covered: Sequence[int], *, now: datetime
) -> bool:
    """Remove the bodies and error texts of some events that a deletion covers; returns False if its lease is lost."""
    # Locked against claims, while its lease can be renewed.
    held = select(col(StoredEvent.id)).where(*_is_held(event_id, lease)).with_for_update(read=True, key_share=True)
    if (await connection.execute(held)).first() is None:
        return False
    # In the order of their ids: two deletions that cover each other's events would wait for each other otherwise. Not
    # for the keys, which a deletion holds of its own event meanwhile.
    locking = _ERASED.where(is_any(StoredEvent.id, covered)).order_by(col(StoredEvent.id))
    rows = await connection.execute(locking.with_for_update(key_share=True, of=StoredEvent))
    locked = _erasable(map(_Event._make, rows), spares_deletes=False)
    await connection.execute(update(HandlerOutcome).where(is_any(HandlerOutcome.event_id, locked)).values(error=None))
    await connection.execute(sql_delete(StoredBody).where(is_any(StoredBody.id, locked)))
    is_unfinished = col(StoredEvent.state).in_(rules.UNFINISHED)
    await connection.execute(
        update(StoredEvent)
        .where(is_any(StoredEvent.id, locked))
        .values(
            erased=True,
            last_error=None,
            state=case((is_unfinished, EventState.SUPPRESSED), else_=col(StoredEvent.state)),
            finished_at=func.coalesce(col(StoredEvent.finished_at), now),
        )
    )
    return True


def _erasable(events: Iterable[_Event], *, spares_deletes: bool) -> list[int]:
    """Return the ids of those of some events that a deletion erases."""
    return [
        event.id
        for event in events
        if rules.is_erasable(event.type, event.state, is_deletion=event.is_deletion, spares_deletes=spares_deletes)
    ]


async def complete(connection: AsyncConnection, event_id: int, *, now: datetime) -> None:
    """Note that everything that a deletion covers is erased."""
    await connection.execute(update(Erasure).where(col(Erasure.event_id) == event_id).values(completed_at=now))


async def find_deleted(
    connection: AsyncConnection, accounts: Iterable[str], subjects: Iterable[str]
) -> dict[tuple[str, str, str], datetime]:
    """Return through when people were deleted, by account, component and subject, for those who were."""
    key = (col(Erasure.account), col(Erasure.component), col(Erasure.person_hash))
    statement = (
        select(*key, func.max(col(Erasure.erased_through)))
        .where(is_any_of(col(Erasure.account), set(accounts)), is_any_of(col(Erasure.person_hash), set(subjects)))
        .group_by(*key)
    )
    rows = (await connection.execute(statement)).all()
    return {(account, component, subject): through for account, component, subject, through in rows}


def _is_of(tenant: Tenant, subjects: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    return (
        col(StoredEvent.account) == tenant.account,
        col(StoredEvent.component) == tenant.component,
        is_any_of(SUBJECT, subjects),
    )


def _is_held(event_id: int, lease: str) -> tuple[ColumnElement[bool], ...]:
    return (
        col(StoredEvent.id) == event_id,
        col(StoredEvent.lease) == lease,
        col(StoredEvent.state) == EventState.PENDING,
    )
