"""When a deletion may begin, and whom it covers from then on; and what becomes of a merge.

A delete covers everybody who was merged into the person by the time that its handlers are called. What comes to light
after that is no part of it: a merge that is learned of too late is a deletion of its own, of its other id.

Other processes decide at the same time. So what a decision rests on is locked until it is committed, and where somebody
else has locked that nothing is decided: the event waits for the next claim. What is stored meanwhile nobody can lock,
so a deletion begins only when everybody can see whom it covers: in a later transaction than the one that notes that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import and_, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from enable_with_segment.db.event_log.deletion import id_to_delete, reach
from enable_with_segment.db.event_log.postgresql.people import SUBJECT, merged_hashes
from enable_with_segment.db.event_log.postgresql.statements import OLDEST_PENDING, is_any
from enable_with_segment.db.event_log.postgresql.tombstones import is_covered_by, write_tombstones
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.db.event_log.tables import Erasure, HandlerOutcome, StoredEvent

_AT_ONCE = 20
"""Each takes a few questions, and what is claimed along with them waits meanwhile."""

#: Whether a handler was called. One that was done stays done when a dead letter is tried again from attempt 0.
_WAS_ATTEMPTED = or_(col(StoredEvent.attempts) > 0, exists().where(col(HandlerOutcome.event_id) == col(StoredEvent.id)))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A delete, or a merge, that is about to be handed out; ``has_begun`` if handlers may know of it already."""

    event_id: int
    type: str
    account: str
    component: str
    person: str
    other: str | None
    occurred_at: datetime
    received_at: datetime
    has_begun: bool


class Decisions(NamedTuple):
    """What becomes of deletes and merges."""

    too_late: dict[int, datetime]
    """The merges that come too late for a deletion, and up to when that was."""
    waiting: set[int]
    """The events that have to wait."""
    is_noted: bool
    """Whether some wait only until it is committed whom they cover."""


class _Undecided(Exception):
    """Somebody else is about to change what a decision rests on."""


class _Noted(Exception):
    """It was noted just now whom a deletion covers, and nobody else can see that yet."""


async def look_after(
    connection: AsyncConnection, event_ids: Sequence[int], *, begun: Collection[int], now: datetime
) -> Decisions:
    """Look after deletes and merges: whether they are handed out, and as what.

    Args:
        event_ids: they are locked. Not more than some can be looked after at once: the first of those that need it.
        begun: those of them that somebody held before.
    """
    too_late: dict[int, datetime] = {}
    is_noted = False
    candidates = await _candidates(connection, event_ids, begun) if event_ids else []
    waiting = {candidate.event_id for candidate in candidates[_AT_ONCE:]}
    # Asked for only now that the events are locked: what others took without seeing the tombstones is pending by now.
    oldest = (await connection.execute(OLDEST_PENDING)).scalar() if candidates else None
    for candidate in candidates[:_AT_ONCE]:
        try:
            through = reach(candidate.occurred_at, candidate.received_at)
            if candidate.type == "alias":
                deleted_through = await _too_late_through(connection, candidate)
                if deleted_through is None:
                    continue
                through = too_late[candidate.event_id] = deleted_through
            if not await _may_begin(connection, candidate, through, oldest=oldest or 0, now=now):
                waiting.add(candidate.event_id)
        except _Undecided:
            waiting.add(candidate.event_id)
        except _Noted:
            waiting.add(candidate.event_id)
            is_noted = True
    return Decisions(too_late, waiting, is_noted)


async def _candidates(
    connection: AsyncConnection, event_ids: Sequence[int], begun: Collection[int]
) -> Sequence[Candidate]:
    """Return the deletes, and the merges of people who were deleted, in the order of their ids in ``event_ids``."""
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
        SUBJECT.label("person"),
        col(StoredEvent.previous_hash),
        col(StoredEvent.occurred_at),
        col(StoredEvent.received_at),
        (_WAS_ATTEMPTED | is_any(StoredEvent.id, begun)).label("has_begun"),
    ).where(is_any(StoredEvent.id, event_ids), or_(col(StoredEvent.type) == "delete", was_deleted))
    turns = {event_id: turn for turn, event_id in enumerate(event_ids)}
    rows = sorted((await connection.execute(statement)).all(), key=lambda row: turns[row.id])
    return [
        Candidate(
            event_id=row.id,
            type=row.type,
            account=row.account,
            component=row.component,
            person=row.person or "",
            other=row.previous_hash,
            occurred_at=row.occurred_at,
            received_at=row.received_at,
            has_begun=row.has_begun,
        )
        for row in rows
    ]


async def _too_late_through(connection: AsyncConnection, merge: Candidate) -> datetime | None:
    """Up to when the person of a merge was deleted, if it comes too late for that; ``None`` if it is handed over.

    It is handed over while a delete that covers it waits to be handled: it tells what else is to be erased. Once it is
    taken for a deletion, it stays one.
    """
    own = await _covered_by(connection, merge.event_id)
    if own:
        return own.get(merge.other or "", max(own.values()))  # version 1 noted not all of them for each
    statement = select(col(Erasure.event_id), col(Erasure.erased_through)).where(
        col(Erasure.account) == merge.account,
        col(Erasure.component) == merge.component,
        col(Erasure.person_hash) == merge.person,
        col(Erasure.erased_through) >= merge.occurred_at,
    )
    covering: dict[int, datetime] = {row.event_id: row.erased_through for row in await connection.execute(statement)}
    if not covering:
        return None
    is_waiting = (
        is_any(StoredEvent.id, list(covering)),
        col(StoredEvent.type) == "delete",
        col(StoredEvent.state) == EventState.PENDING,
        col(StoredEvent.lease).is_(None),
        ~_WAS_ATTEMPTED,
    )
    waiting = (await connection.execute(select(col(StoredEvent.id)).where(*is_waiting))).scalars().all()
    if not waiting:
        return max(covering.values())
    locked = select(col(StoredEvent.id)).where(*is_waiting).with_for_update(read=True, skip_locked=True)
    if len((await connection.execute(locked)).all()) < len(waiting):
        raise _Undecided
    return None


async def _may_begin(
    connection: AsyncConnection, deletion: Candidate, through: datetime, *, oldest: int, now: datetime
) -> bool:
    """Tell whether a deletion may begin, once it is noted whom it covers.

    It waits while somebody works on an event that it covers, whose handler could otherwise write the person back after
    they were erased. A delete waits for every merge, too, that is to be handed over before it.
    """
    whom = id_to_delete(deletion.type, deletion.person, deletion.other)
    if whom is None:
        return True
    covered = await _covered_by(connection, deletion.event_id)
    if not (covered and deletion.has_begun):
        through = covered.get(whom, through)
        hashes = await merged_hashes(connection, deletion.account, deletion.component, whom, through=through)
        unnoted = hashes - covered.keys()
        if unnoted:
            await write_tombstones(
                connection,
                deletion.event_id,
                account=deletion.account,
                component=deletion.component,
                hashes=unnoted,
                through=through,
                requested_at=deletion.received_at,
            )
            raise _Noted
    others = (
        col(StoredEvent.id) >= oldest,
        col(StoredEvent.id) != deletion.event_id,
        col(StoredEvent.state) == EventState.PENDING,
        col(StoredEvent.account) == deletion.account,
        col(StoredEvent.component) == deletion.component,
        is_covered_by(deletion.event_id, set(covered)),
    )
    is_deletion = exists().where(col(Erasure.event_id) == col(StoredEvent.id))
    comes_first = and_(col(StoredEvent.type) == "alias", ~is_deletion)
    rows = (await connection.execute(select(col(StoredEvent.id), comes_first).where(*others))).all()
    if deletion.type == "delete" and not deletion.has_begun and any(is_first for _, is_first in rows):
        return False
    is_free = col(StoredEvent.leased_until).is_(None) | (col(StoredEvent.leased_until) <= now)
    locked = select(col(StoredEvent.id)).where(*others, is_free).with_for_update(skip_locked=True)
    free = set((await connection.execute(locked)).scalars())
    return free >= {event_id for event_id, _ in rows}


async def _covered_by(connection: AsyncConnection, event_id: int) -> dict[str, datetime]:
    """Return whom a deletion covers, and up to when."""
    statement = select(col(Erasure.person_hash), col(Erasure.erased_through)).where(col(Erasure.event_id) == event_id)
    return {row.person_hash: row.erased_through for row in await connection.execute(statement)}
