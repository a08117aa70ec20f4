"""Deletion in the log: tombstones for a person and the ids merged into them, and wiping what is stored.

A tombstone is written in the transaction that stores the delete, so that every event claimed afterwards is seen to
be covered. The ids are keyed hashes; the clear ids are only in the bodies, and those are wiped.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, case, exists, func, not_, or_, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from db.event_log.records import ErasureReport, NewEvent
from db.event_log.statements import ERASURES, is_any_of
from db.event_log.tables import Erasure, EventState, HandlerOutcome, StoredBody, StoredEvent
from db.event_log.tombstone import SAME_DELETION, Tombstone

_UNTIL_DECIDED = timedelta(seconds=30)
"""How long nobody is handed a delete that may be a repeated one: longer than it takes to decide that."""
#: The hash that decides whether a tombstone covers an event: the person's, or the device's while nobody is known.
SUBJECT = func.coalesce(col(StoredEvent.person_hash), col(StoredEvent.device_hash))


class Repetition(NamedTuple):
    """A delete that looks like one more message of a deletion that is asked for already."""

    event_id: int
    delete: NewEvent
    known_through: datetime
    """Up to when that deletion covered the person before."""


async def request(connection: AsyncConnection, event_id: int, delete: NewEvent) -> Repetition | None:
    """Write the tombstones of a delete that was just stored, or find that it looks like one more message of the same.

    Segment sends one message for each source (contract 7.1). A further message within a day is the same deletion
    as long as nothing newer of the person has arrived and the first one was not given up.

    Returns:
        What :func:`decide` has to be asked of once this transaction is committed. An event may be stored, and handled,
        while this one is not committed, and neither sees the other. If nobody ever asks, the delete is handed out a
        little later, as a deletion of its own.
    """
    if delete.person_hash is None:
        raise ValueError("a delete names no person")
    through = _reach(delete)
    hashes = await _merged_hashes(connection, delete.account, delete.component, delete.person_hash)
    known_through = await _covered_through(connection, delete)
    if known_through is None or await _is_newer(connection, delete, hashes, known_through):
        await _cover(connection, event_id, delete, hashes)
        return None
    await connection.execute(
        update(StoredEvent)
        .where(col(StoredEvent.id) == event_id)
        .values(available_at=delete.received_at + _UNTIL_DECIDED)
    )
    await connection.execute(
        update(Erasure)
        .where(*_tombstones(delete.account, delete.component, hashes), col(Erasure.erased_through) < through)
        .values(erased_through=through)
    )
    return Repetition(event_id, delete, known_through)


async def decide(connection: AsyncConnection, repetition: Repetition) -> None:
    """Let a delete be nothing but one more message of the same deletion, or one of its own after all.

    By now its tombstones are committed, which cover every event that is claimed from here on, so it is enough to see
    those that are stored.
    """
    event_id, delete, known_through = repetition
    own = col(StoredEvent.id) == event_id
    untouched = select(col(StoredEvent.id)).where(
        own, col(StoredEvent.state) == EventState.PENDING, col(StoredEvent.lease).is_(None)
    )
    if (await connection.execute(untouched.with_for_update())).scalar_one_or_none() is None:
        return  # it is being handled already
    hashes = await _merged_hashes(connection, delete.account, delete.component, delete.person_hash or "")
    if await _is_newer(connection, delete, hashes, known_through):
        await _cover(connection, event_id, delete, hashes)
        await connection.execute(update(StoredEvent).where(own).values(available_at=delete.received_at))
        return
    await connection.execute(
        update(StoredEvent)
        .where(own)
        .values(
            state=EventState.REPEATED_DELETE,
            available_at=delete.received_at,
            finished_at=delete.received_at,
            erased=True,
        )
    )
    await connection.execute(sql_delete(StoredBody).where(col(StoredBody.id) == event_id))


def _reach(delete: NewEvent) -> datetime:
    """Up to when a delete covers the person: a device clock that runs ahead must not suppress what is still to come."""
    return min(delete.occurred_at, delete.received_at)


async def _cover(connection: AsyncConnection, event_id: int, delete: NewEvent, hashes: set[str]) -> None:
    await _write_tombstones(
        connection,
        event_id,
        account=delete.account,
        component=delete.component,
        hashes=hashes,
        through=_reach(delete),
        requested_at=delete.received_at,
    )


async def find_tombstones(
    connection: AsyncConnection, accounts: Iterable[str], subjects: Iterable[str]
) -> dict[tuple[str, str, str], Tombstone]:
    """Return the tombstones by account, component and subject, for the subjects that have one."""
    statement = select(
        col(Erasure.account),
        col(Erasure.component),
        col(Erasure.person_hash),
        col(Erasure.erased_through),
        col(Erasure.completed_at),
    ).where(is_any_of(col(Erasure.account), set(accounts)), is_any_of(col(Erasure.person_hash), set(subjects)))
    rows = (await connection.execute(statement)).all()
    return {
        (account, component, subject): Tombstone(through, completed=completed_at is not None)
        for account, component, subject, through, completed_at in rows
    }


async def wait_for_others(connection: AsyncConnection, event_id: int) -> None:
    """Wait, in this transaction, until no other one erases somebody of the same account.

    Two deletions that cover each other's events would both hold their own and want the other's: a deadlock, of which
    PostgreSQL takes notice after a second only.
    """
    key = func.hashtextextended(col(StoredEvent.account), 0)
    await connection.execute(select(func.pg_advisory_xact_lock(key)).where(col(StoredEvent.id) == event_id))


async def wipe(connection: AsyncConnection, event_id: int, *, now: datetime) -> ErasureReport:
    """Remove the bodies and error texts of the events that a delete covers, and note that it is done.

    Ids that were merged into the person since the delete arrived are covered from here on as well. An alias that came
    after the person's deletion was finished does for the ids it brings what that did for the others.
    """
    delete = (
        await connection.execute(
            select(
                col(StoredEvent.type),
                col(StoredEvent.account),
                col(StoredEvent.component),
                col(StoredEvent.person_hash),
                col(StoredEvent.occurred_at),
                col(StoredEvent.received_at),
            ).where(col(StoredEvent.id) == event_id)
        )
    ).one()
    kind, account, component, person_hash, occurred_at, received_at = delete
    through = min(occurred_at, received_at)
    own = (col(Erasure.event_id) == event_id, *_tombstones(account, component, {person_hash or ""}))
    extended = (await connection.execute(select(col(Erasure.erased_through)).where(*own))).scalar_one_or_none()
    if extended is not None:  # by a later message of the same deletion
        through = max(through, extended)
    hashes = await _merged_hashes(connection, account, component, person_hash or "")
    uncovered = hashes
    if kind == "alias":
        found = await find_tombstones(connection, [account], hashes)
        known = {subject: tombstone.through for (_, where, subject), tombstone in found.items() if where == component}
        through = max(through, known.get(person_hash or "", through))
        # The person's own stays as it is: it has to be complete, whatever becomes of this.
        uncovered = {one for one in hashes if one not in known or known[one] < through}
    await _write_tombstones(
        connection,
        event_id,
        account=account,
        component=component,
        hashes=uncovered,
        through=through,
        requested_at=received_at,
    )
    # One that is still to end in an erasure of its own stays: its handlers have to be told whose.
    is_to_erase = and_(col(StoredEvent.state) == EventState.PENDING, col(StoredEvent.type).in_(("delete", "alias")))
    covered = (
        col(StoredEvent.account) == account,
        col(StoredEvent.component) == component,
        is_any_of(SUBJECT, hashes),
        or_(and_(col(StoredEvent.occurred_at) <= through, not_(is_to_erase)), col(StoredEvent.id) == event_id),
    )
    await connection.execute(
        update(HandlerOutcome)
        .where(col(HandlerOutcome.event_id).in_(select(col(StoredEvent.id)).where(*covered)))
        .values(error=None)
    )
    unfinished = and_(
        col(StoredEvent.id) != event_id, col(StoredEvent.state).in_((EventState.PENDING, EventState.DEAD_LETTER))
    )
    await connection.execute(
        sql_delete(StoredBody).where(col(StoredBody.id).in_(select(col(StoredEvent.id)).where(*covered)))
    )
    wiped = await connection.execute(
        update(StoredEvent)
        .where(*covered)
        .values(
            erased=True,
            last_error=None,
            state=case((unfinished, EventState.SUPPRESSED), else_=col(StoredEvent.state)),
            finished_at=func.coalesce(col(StoredEvent.finished_at), now),
        )
    )
    await connection.execute(update(Erasure).where(col(Erasure.event_id) == event_id).values(completed_at=now))
    return ErasureReport(merged_ids=len(hashes) - 1, events=wiped.rowcount)


async def _write_tombstones(
    connection: AsyncConnection,
    event_id: int,
    *,
    account: str,
    component: str,
    hashes: set[str],
    through: datetime,
    requested_at: datetime,
) -> None:
    """Add tombstones, or move those that are there forward; a newer delete's work is not taken away from it."""
    if not hashes:
        return
    statement = insert(ERASURES)
    new, old = statement.excluded, ERASURES.c
    statement = statement.on_conflict_do_update(
        index_elements=["account", "component", "person_hash"],
        set_={
            "erased_through": case(
                (new.erased_through > old.erased_through, new.erased_through), else_=old.erased_through
            ),
            "requested_at": new.requested_at,
            "event_id": new.event_id,
            "completed_at": None,
        },
        where=new.event_id >= old.event_id,
    )
    await connection.execute(
        statement,
        [
            {
                "account": account,
                "component": component,
                "person_hash": person_hash,
                "erased_through": through,
                "requested_at": requested_at,
                "event_id": event_id,
            }
            for person_hash in sorted(hashes)
        ],
    )


async def _merged_hashes(connection: AsyncConnection, account: str, component: str, person_hash: str) -> set[str]:
    """Return the person, every id that was merged into them by alias, and the devices they were seen on."""
    people, devices, frontier = {person_hash}, set[str](), {person_hash}
    while frontier:
        statement = (
            select(col(StoredEvent.previous_hash), col(StoredEvent.device_hash))
            .where(
                col(StoredEvent.account) == account,
                col(StoredEvent.component) == component,
                is_any_of(SUBJECT, frontier),
                is_any_of(col(StoredEvent.person_hash), frontier),
            )
            .distinct()
        )
        rows = (await connection.execute(statement)).all()
        devices |= {device for _, device in rows if device is not None}
        frontier = {previous for previous, _ in rows if previous is not None} - people
        people |= frontier
    return people | devices


async def _covered_through(connection: AsyncConnection, delete: NewEvent) -> datetime | None:
    """Up to when a deletion covers the person that a further message of it may be about; ``None`` without one."""
    first = (
        await connection.execute(
            select(col(Erasure.erased_through), col(Erasure.requested_at), col(StoredEvent.state))
            .join(StoredEvent, col(StoredEvent.id) == col(Erasure.event_id))
            .where(*_tombstones(delete.account, delete.component, {delete.person_hash or ""}))
        )
    ).first()
    if first is None or first.state not in (EventState.PENDING, EventState.HANDLED):
        return None
    if delete.received_at - first.requested_at > SAME_DELETION:
        return None
    through: datetime = first.erased_through
    return through


async def _is_newer(connection: AsyncConnection, delete: NewEvent, hashes: set[str], through: datetime) -> bool:
    """Tell whether anything of a person is stored that happened after an instant."""
    newer = exists().where(
        col(StoredEvent.account) == delete.account,
        col(StoredEvent.component) == delete.component,
        col(StoredEvent.type) != "delete",
        col(StoredEvent.occurred_at) > through,
        is_any_of(SUBJECT, hashes),
    )
    return bool((await connection.execute(select(newer))).scalar_one())


def _tombstones(account: str, component: str, hashes: set[str]) -> tuple[ColumnElement[bool], ...]:
    return (
        col(Erasure.account) == account,
        col(Erasure.component) == component,
        is_any_of(col(Erasure.person_hash), hashes),
    )
