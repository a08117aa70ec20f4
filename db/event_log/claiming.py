"""Events on their way out: claimed under a lease, settled under its fence."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import RowMapping, bindparam, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased
from sqlmodel import col

from db.event_log import erasing
from db.event_log.records import ClaimedEvent, HandlerResult, Settlement
from db.event_log.statements import OUTCOMES, insert_into
from db.event_log.tables import Erasure, EventState, HandlerOutcome, HandlerState, StoredEvent
from db.event_log.tombstone import Tombstone

_PENDING = col(StoredEvent.state) == EventState.PENDING


async def claim(
    connection: AsyncConnection,
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
    other = aliased(StoredEvent)
    still_worked_on = exists().where(
        col(Erasure.event_id) == col(StoredEvent.id),
        col(other.account) == col(Erasure.account),
        col(other.component) == col(Erasure.component),
        func.coalesce(col(other.person_hash), col(other.device_hash)) == col(Erasure.person_hash),
        col(other.occurred_at) <= col(Erasure.erased_through),
        col(other.id) != col(StoredEvent.id),
        col(other.state) == EventState.PENDING,
        or_(col(other.leased_until) > now, col(other.type) == "alias"),
    )
    due = (
        select(col(StoredEvent.id))
        .where(
            _PENDING,
            col(StoredEvent.available_at) <= now,
            col(StoredEvent.component).in_(components),
            or_(col(StoredEvent.leased_until).is_(None), col(StoredEvent.leased_until) <= now),
            or_(col(StoredEvent.type) != "delete", ~still_worked_on),
        )
        .order_by(col(StoredEvent.available_at), col(StoredEvent.id))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(StoredEvent)
        .where(col(StoredEvent.id).in_(due))
        .values(lease=lease, leased_until=until)
        .returning(
            col(StoredEvent.id),
            col(StoredEvent.type),
            col(StoredEvent.account),
            col(StoredEvent.component),
            col(StoredEvent.key_id),
            col(StoredEvent.install_id),
            col(StoredEvent.received_at),
            col(StoredEvent.occurred_at),
            col(StoredEvent.person_hash),
            col(StoredEvent.device_hash),
            col(StoredEvent.body),
            col(StoredEvent.settings),
            col(StoredEvent.attempts),
        )
    )
    rows = sorted((await connection.execute(statement)).mappings(), key=lambda row: int(row["id"]))
    if not rows:
        return []
    finished = await _finished_outcomes(connection, [row["id"] for row in rows])
    tombstones = await erasing.find_tombstones(
        connection,
        (row["account"] for row in rows),
        (subject for row in rows if (subject := row["person_hash"] or row["device_hash"])),
    )
    return [_claimed(row, lease, finished, tombstones) for row in rows]


def _claimed(
    row: RowMapping,
    lease: str,
    finished: dict[int, list[HandlerResult]],
    tombstones: dict[tuple[str, str, str], Tombstone],
) -> ClaimedEvent:
    tombstone = tombstones.get((row["account"], row["component"], row["person_hash"] or row["device_hash"] or ""))
    return ClaimedEvent(
        id=row["id"],
        lease=lease,
        type=row["type"],
        account=row["account"],
        component=row["component"],
        key_id=row["key_id"],
        install_id=row["install_id"],
        received_at=row["received_at"],
        body=row["body"] or b"",
        settings=json.loads(row["settings"]),
        attempts=row["attempts"],
        finished=tuple(finished.get(row["id"], ())),
        suppressed=tombstone is not None and tombstone.covers(event_type=row["type"], occurred_at=row["occurred_at"]),
    )


async def _finished_outcomes(connection: AsyncConnection, event_ids: Sequence[int]) -> dict[int, list[HandlerResult]]:
    statement = select(
        col(HandlerOutcome.event_id), col(HandlerOutcome.handler), col(HandlerOutcome.state), col(HandlerOutcome.error)
    ).where(col(HandlerOutcome.event_id).in_(event_ids), col(HandlerOutcome.state) != HandlerState.RETRY)
    outcomes: dict[int, list[HandlerResult]] = defaultdict(list)
    for event_id, handler, state, error in (await connection.execute(statement)).all():
        outcomes[event_id].append(HandlerResult(handler, state, error))
    return outcomes


async def renew(connection: AsyncConnection, lease: str, event_ids: Sequence[int], *, until: datetime) -> None:
    """Hold events longer, as far as the lease is still ours."""
    await connection.execute(
        update(StoredEvent)
        .where(col(StoredEvent.id).in_(event_ids), col(StoredEvent.lease) == lease)
        .values(leased_until=until)
    )


async def release(connection: AsyncConnection, lease: str, event_ids: Sequence[int]) -> None:
    """Give events back without counting an attempt."""
    await connection.execute(
        update(StoredEvent)
        .where(col(StoredEvent.id).in_(event_ids), col(StoredEvent.lease) == lease)
        .values(lease=None, leased_until=None)
    )


async def settle(connection: AsyncConnection, settlements: Sequence[Settlement]) -> list[bool]:
    """Record how attempts ended, for those whose lease is still the one they were claimed under."""
    statement = select(col(StoredEvent.id), col(StoredEvent.lease)).where(
        _PENDING, col(StoredEvent.id).in_([settlement.event_id for settlement in settlements])
    )
    held = {
        (event_id, lease) for event_id, lease in (await connection.execute(statement.with_for_update())).all() if lease
    }
    ours = [settlement for settlement in settlements if (settlement.event_id, settlement.lease) in held]
    if ours:
        await connection.execute(
            update(StoredEvent)
            .where(col(StoredEvent.id) == bindparam("settled_id"))
            .values(
                state=bindparam("new_state"),
                attempts=col(StoredEvent.attempts) + 1,
                available_at=bindparam("new_available_at"),
                finished_at=bindparam("new_finished_at"),
                last_error=bindparam("new_error"),
                lease=None,
                leased_until=None,
            ),
            [
                {
                    "settled_id": settlement.event_id,
                    "new_state": settlement.state,
                    "new_available_at": settlement.available_at or settlement.at,
                    "new_finished_at": None if settlement.state is EventState.PENDING else settlement.at,
                    "new_error": settlement.error,
                }
                for settlement in ours
            ],
        )
        await _save_outcomes(connection, ours)
        suppressed = [settlement.event_id for settlement in ours if settlement.state is EventState.SUPPRESSED]
        if suppressed:
            await connection.execute(update(StoredEvent).where(col(StoredEvent.id).in_(suppressed)).values(body=None))
    return [settlement in ours for settlement in settlements]


async def _save_outcomes(connection: AsyncConnection, settlements: Sequence[Settlement]) -> None:
    rows = [
        {
            "event_id": settlement.event_id,
            "handler": result.handler,
            "state": result.state,
            "attempts": 1,
            "at": settlement.at,
            "error": result.error,
        }
        for settlement in settlements
        for result in settlement.results
    ]
    if not rows:
        return
    statement = insert_into(connection, OUTCOMES)
    statement = statement.on_conflict_do_update(
        index_elements=["event_id", "handler"],
        set_={
            "state": statement.excluded.state,
            "attempts": OUTCOMES.c.attempts + 1,
            "at": statement.excluded.at,
            "error": statement.excluded.error,
        },
    )
    await connection.execute(statement, rows)


async def count_due(connection: AsyncConnection, now: datetime, components: Collection[str] | None = None) -> int:
    """Count the pending events whose time has come, held by somebody or not."""
    statement = select(func.count()).where(_PENDING, col(StoredEvent.available_at) <= now)
    if components is not None:
        statement = statement.where(col(StoredEvent.component).in_(components))
    return (await connection.execute(statement)).scalar_one()
