"""Events that are handled once more, or sooner than they would have been."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import and_, case, delete, func, literal_column, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased
from sqlmodel import col

from enable_with_segment.db.event_log.postgresql import claiming
from enable_with_segment.db.event_log.postgresql.statements import OLDEST_PENDING, SUBJECT, in_state, is_any
from enable_with_segment.db.event_log.records import LEFT_TO_IT, LONGEST_LEASE, UNFINISHED, Predecessor
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.db.event_log.tables import HandlerOutcome, StoredEvent

_FINISHED = (EventState.HANDLED, EventState.UNSUPPORTED, EventState.DEAD_LETTER)
_PORTION = 1_000


async def revive(
    connection: AsyncConnection,
    event_ids: Sequence[int],
    *,
    handler: str | None,
    now: datetime,
    skipped: Mapping[int, Collection[str]],
) -> int:
    """Make finished events pending again, so that all handlers or only one is called once more."""
    chosen = (
        is_any(StoredEvent.id, event_ids),
        col(StoredEvent.state).in_(_FINISHED),
        col(StoredEvent.type) != "delete",
        col(StoredEvent.erased).is_(False),
    )
    statement = (
        update(StoredEvent)
        .where(*chosen)
        .values(state=EventState.PENDING, attempts=0, finished_at=None, last_error=None, available_at=now)
        .returning(col(StoredEvent.id))
    )
    revived = [event_id for event_id in (await connection.execute(statement)).scalars() if event_id is not None]
    forgotten = delete(HandlerOutcome).where(is_any(HandlerOutcome.event_id, revived))
    if handler is not None:
        unfinished = col(HandlerOutcome.state).in_(UNFINISHED)
        forgotten = forgotten.where(or_(unfinished, col(HandlerOutcome.handler) == handler))
    await connection.execute(forgotten)
    others = [(event_id, other) for event_id in revived for other in skipped.get(event_id, ()) if handler is not None]
    if others:
        await connection.execute(
            insert(HandlerOutcome).on_conflict_do_nothing(),
            [{"event_id": event_id, "handler": other, **_skipped(now)} for event_id, other in others],
        )
    return len(revived)


def _skipped(now: datetime) -> dict[str, object]:
    return {"state": HandlerState.SKIPPED, "attempts": 0, "at": now, "results": 0}


async def hasten(connection: AsyncConnection, component: str, *, now: datetime, limit: int) -> int:
    """Make events due that wait for a later time."""
    waiting = (
        select(col(StoredEvent.id))
        .where(
            in_state(EventState.PENDING),
            col(StoredEvent.component) == component,
            col(StoredEvent.available_at) > now,
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = update(StoredEvent).where(col(StoredEvent.id).in_(waiting)).values(available_at=now)
    return (await connection.execute(statement)).rowcount


async def bring_forward(
    connection: AsyncConnection, components: Collection[str], *, now: datetime, attempted_from: datetime, after_id: int
) -> list[int]:
    """Make events due that wait for a later time, a portion of them after an id; returns which.

    Leases that were taken while the clock was ahead are cut short: their holder may have died.
    """
    too_long = col(StoredEvent.leased_until) > now + LONGEST_LEASE
    may_not_wait = or_(col(StoredEvent.attempts) == 0, col(StoredEvent.available_at) > attempted_from)
    waiting = (
        select(col(StoredEvent.id))
        .where(
            in_state(EventState.PENDING),
            col(StoredEvent.id) > after_id,
            col(StoredEvent.component).in_(components),
            or_(too_long, and_(col(StoredEvent.available_at) > now, may_not_wait)),
        )
        .order_by(col(StoredEvent.id))
        .limit(_PORTION)
        .with_for_update(skip_locked=True)
    )
    ids = [event_id for event_id in (await connection.execute(waiting)).scalars() if event_id is not None]
    if ids:
        brought = {
            "available_at": func.least(col(StoredEvent.available_at), now),
            "leased_until": case((too_long, now + LEFT_TO_IT), else_=col(StoredEvent.leased_until)),
        }
        await connection.execute(update(StoredEvent).where(is_any(StoredEvent.id, ids)).values(brought))
    return ids


async def wake_successors(connection: AsyncConnection, event_ids: Sequence[int], *, now: datetime) -> int:
    """Make the first pending event after each of some events due, of the same sender and person."""
    later = aliased(StoredEvent)
    following = (
        select(func.min(col(later.id)))
        .select_from(StoredEvent)
        .join(later, col(later.scope) == col(StoredEvent.scope))
        .where(
            is_any(StoredEvent.id, event_ids),
            col(later.state) == literal_column(f"'{EventState.PENDING}'"),
            col(later.id) > col(StoredEvent.id),
            func.coalesce(col(later.person_hash), col(later.device_hash)) == SUBJECT,
        )
        .group_by(col(StoredEvent.id))
    )
    ids = [event_id for event_id in (await connection.execute(following)).scalars() if event_id is not None]
    if not ids:
        return 0
    waiting = (is_any(StoredEvent.id, ids), in_state(EventState.PENDING), col(StoredEvent.available_at) > now)
    chosen = select(col(StoredEvent.id)).where(*waiting).with_for_update(skip_locked=True)
    statement = update(StoredEvent).where(col(StoredEvent.id).in_(chosen)).values(available_at=now)
    return (await connection.execute(statement)).rowcount


async def predecessors(connection: AsyncConnection, event_ids: Sequence[int]) -> dict[int, list[Predecessor]]:
    """Find the pending events of the same sender and person before each of some events."""
    earlier = aliased(StoredEvent)
    statement = (
        select(col(StoredEvent.id), col(earlier.id), col(earlier.type), col(earlier.event))
        .join(earlier, col(earlier.scope) == col(StoredEvent.scope))
        .where(
            is_any(StoredEvent.id, event_ids),
            col(earlier.state) == literal_column(f"'{EventState.PENDING}'"),
            col(earlier.id) >= OLDEST_PENDING.scalar_subquery(),  # a person may have events in each partition
            col(earlier.id) < col(StoredEvent.id),
            func.coalesce(col(earlier.person_hash), col(earlier.device_hash)) == SUBJECT,
        )
        .order_by(col(earlier.id))
    )
    rows = [(int(row[0] or 0), int(row[1] or 0), row[2], row[3]) for row in (await connection.execute(statement)).all()]
    outcomes = await claiming.handler_outcomes(connection, sorted({earlier_id for _, earlier_id, _, _ in rows}))
    found: dict[int, list[Predecessor]] = defaultdict(list)
    for event_id, earlier_id, kind, event in rows:
        finished = frozenset(outcome.handler for outcome in outcomes.get(earlier_id, ()) if outcome.finished)
        found[event_id].append(Predecessor(earlier_id, kind, event, finished))
    return found
