"""Deletion in the log: tombstones for a person and the ids merged into them, and wiping what is stored.

A tombstone is written in the transaction that stores the delete, so that every event claimed afterwards is seen to
be covered. The ids are keyed hashes; the clear ids are only in the bodies, and those are wiped.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, case, exists, func, not_, or_, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from enable_with_segment.db.event_log.deletion import SAME_DELETION, reach
from enable_with_segment.db.event_log.postgresql.people import SUBJECT, merged_hashes
from enable_with_segment.db.event_log.postgresql.statements import is_any, is_any_of
from enable_with_segment.db.event_log.postgresql.tombstones import is_covered_by, write_tombstones
from enable_with_segment.db.event_log.records import NewEvent
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.db.event_log.tables import Erasure, HandlerOutcome, StoredBody, StoredEvent

_UNTIL_DECIDED = timedelta(seconds=30)
"""How long nobody is handed a delete that may be a repeated one: longer than it takes to decide that."""

#: One that is still to end in an erasure of its own stays: its handlers have to be told whose. So does a merge that was
#: given up as one: the other id is not deleted before somebody lets it be tried again.
_IS_TO_ERASE = or_(
    and_(col(StoredEvent.state) == EventState.PENDING, col(StoredEvent.type).in_(("delete", "alias"))),
    and_(
        col(StoredEvent.state) == EventState.DEAD_LETTER,
        col(StoredEvent.type) == "alias",
        exists().where(col(Erasure.event_id) == col(StoredEvent.id)),
    ),
)


_IS_DELETE_GIVEN_UP = and_(col(StoredEvent.state) == EventState.DEAD_LETTER, col(StoredEvent.type) == "delete")


class Covered(NamedTuple):
    """What a deletion is to wipe, the oldest first, and how many ids it covers beside the person's."""

    merged_ids: int
    event_ids: Sequence[int]


class Repetition(NamedTuple):
    """A delete that looks like one more message of a deletion that is asked for already."""

    event_id: int
    delete: NewEvent
    first_id: int
    known_through: datetime
    """Up to when that deletion covered the person before."""


class _Asked(NamedTuple):
    """A deletion that was asked for before; without a state when its event was dropped."""

    event_id: int
    erased_through: datetime
    requested_at: datetime
    state: EventState | None


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
    through = reach(delete.occurred_at, delete.received_at)
    hashes = await _everybody(connection, delete)
    first = await _same_deletion(connection, delete)
    if first is None or await _is_newer(connection, delete, hashes, first.erased_through):
        await _cover(connection, event_id, delete, hashes)
        return None
    await connection.execute(
        update(StoredEvent)
        .where(col(StoredEvent.id) == event_id)
        .values(available_at=delete.received_at + _UNTIL_DECIDED)
    )
    await connection.execute(
        update(Erasure)
        .where(
            col(Erasure.event_id) == first.event_id,
            is_any_of(col(Erasure.person_hash), hashes),
            col(Erasure.erased_through) < through,
        )
        .values(erased_through=through)
    )
    return Repetition(event_id, delete, first.event_id, first.erased_through)


async def decide(connection: AsyncConnection, repetition: Repetition) -> None:
    """Let a delete be nothing but one more message of the same deletion, or one of its own after all.

    By now its tombstones are committed, which cover every event that is claimed from here on, so it is enough to see
    those that are stored.
    """
    event_id, delete, first_id, known_through = repetition
    own = col(StoredEvent.id) == event_id
    untouched = select(col(StoredEvent.id)).where(
        own, col(StoredEvent.state) == EventState.PENDING, col(StoredEvent.lease).is_(None)
    )
    if (await connection.execute(untouched.with_for_update())).scalar_one_or_none() is None:
        return  # it is being handled already
    hashes = await _everybody(connection, delete)
    if await _is_newer(connection, delete, hashes, known_through):
        await _cover(connection, event_id, delete, hashes)
        await connection.execute(update(StoredEvent).where(own).values(available_at=delete.received_at))
        # The first one waits for nothing newer, and may not wipe what somebody works on.
        extended = (
            col(Erasure.event_id) == first_id,
            is_any_of(col(Erasure.person_hash), hashes),
            col(Erasure.erased_through) == reach(delete.occurred_at, delete.received_at),
        )
        await connection.execute(update(Erasure).where(*extended).values(erased_through=known_through))
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


async def _everybody(connection: AsyncConnection, delete: NewEvent) -> set[str]:
    whom = delete.account, delete.component, delete.person_hash or ""
    return await merged_hashes(connection, *whom, through=reach(delete.occurred_at, delete.received_at))


async def _cover(connection: AsyncConnection, event_id: int, delete: NewEvent, hashes: set[str]) -> None:
    await write_tombstones(
        connection,
        event_id,
        account=delete.account,
        component=delete.component,
        hashes=hashes,
        through=reach(delete.occurred_at, delete.received_at),
        requested_at=delete.received_at,
    )


async def find_covered(
    connection: AsyncConnection, event_id: int, lease: str, *, spares_deletes: bool
) -> Covered | None:
    """Return what a deletion is to wipe; ``None`` if its lease is lost.

    Whom it covers was noted when it began (``db.event_log.postgresql.beginning``).

    Args:
        spares_deletes: leave deletes alone that were given up.
    """
    held = select(col(StoredEvent.account), col(StoredEvent.component)).where(*_is_held(event_id, lease))
    whose = (await connection.execute(held)).first()
    if whose is None:
        return None
    noted = select(col(Erasure.person_hash)).where(col(Erasure.event_id) == event_id)
    hashes = set((await connection.execute(noted)).scalars())
    if not hashes:
        return Covered(0, ())
    wanted = (
        select(col(StoredEvent.id))
        .where(
            col(StoredEvent.account) == whose.account,
            col(StoredEvent.component) == whose.component,
            is_covered_by(event_id, hashes),
            not_(_IS_TO_ERASE),
            *((not_(_IS_DELETE_GIVEN_UP),) if spares_deletes else ()),
        )
        .order_by(col(StoredEvent.id))
    )
    found = (await connection.execute(wanted)).scalars()
    return Covered(len(hashes) - 1, [one for one in found if one is not None])


async def wipe(
    connection: AsyncConnection, event_id: int, lease: str, covered: Sequence[int], *, now: datetime
) -> bool:
    """Remove the bodies and error texts of some events that a deletion covers; ``False`` if its lease is lost."""
    # Nobody claims it now, and its lease can be renewed.
    held = select(col(StoredEvent.id)).where(*_is_held(event_id, lease)).with_for_update(read=True, key_share=True)
    if (await connection.execute(held)).first() is None:
        return False
    # In the order of their ids: two deletions that cover each other's events would each wait for the other.
    wanted = (
        select(col(StoredEvent.id))
        .where(is_any(StoredEvent.id, covered), not_(_IS_TO_ERASE))
        .order_by(col(StoredEvent.id))
        .with_for_update()
    )
    locked = [one for one in (await connection.execute(wanted)).scalars() if one is not None]
    await connection.execute(update(HandlerOutcome).where(is_any(HandlerOutcome.event_id, locked)).values(error=None))
    await connection.execute(sql_delete(StoredBody).where(is_any(StoredBody.id, locked)))
    unfinished = col(StoredEvent.state).in_((EventState.PENDING, EventState.DEAD_LETTER))
    await connection.execute(
        update(StoredEvent)
        .where(is_any(StoredEvent.id, locked))
        .values(
            erased=True,
            last_error=None,
            state=case((unfinished, EventState.SUPPRESSED), else_=col(StoredEvent.state)),
            finished_at=func.coalesce(col(StoredEvent.finished_at), now),
        )
    )
    return True


def _is_held(event_id: int, lease: str) -> tuple[ColumnElement[bool], ...]:
    return (
        col(StoredEvent.id) == event_id,
        col(StoredEvent.lease) == lease,
        col(StoredEvent.state) == EventState.PENDING,
    )


async def _same_deletion(connection: AsyncConnection, delete: NewEvent) -> _Asked | None:
    """Return the deletion that a further message of it may be about; ``None`` without one."""
    statement = (
        select(col(Erasure.event_id), col(Erasure.erased_through), col(Erasure.requested_at), col(StoredEvent.state))
        .outerjoin(StoredEvent, col(StoredEvent.id) == col(Erasure.event_id))
        .where(
            col(Erasure.account) == delete.account,
            col(Erasure.component) == delete.component,
            col(Erasure.person_hash) == delete.person_hash,
        )
        .order_by(col(Erasure.event_id).desc())
        .limit(1)
    )
    row = (await connection.execute(statement)).first()
    newest = None if row is None else _Asked(*row)
    if newest is None or newest.state not in (EventState.PENDING, EventState.HANDLED):
        return None
    return None if delete.received_at - newest.requested_at > SAME_DELETION else newest


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
