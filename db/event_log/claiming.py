"""Events on their way out: claimed under a lease, settled under its fence."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import datetime

from sqlalchemy import ARRAY, RowMapping, Text, bindparam, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from db.event_log import erasing
from db.event_log.records import ClaimedEvent, HandlerRecord, HandlerResult, Settlement
from db.event_log.statements import OUTCOMES, insert_into
from db.event_log.tables import EventState, HandlerOutcome, StoredEvent
from db.event_log.tombstone import Tombstone
from db.types import UtcDateTime

_PENDING = col(StoredEvent.state) == EventState.PENDING

# The senders are found by stepping through an index that holds pending events only, one step for each, and their
# oldest events are taken in turns. A delete waits while somebody works on an event that it covers, and for aliases.
_CLAIM = (
    text(
        """
    WITH RECURSIVE senders (scope) AS (
      (SELECT scope FROM events WHERE state = 'pending' ORDER BY scope LIMIT 1)
      UNION ALL
      SELECT (SELECT e.scope FROM events e WHERE e.state = 'pending' AND e.scope > s.scope ORDER BY e.scope LIMIT 1)
      FROM senders s WHERE s.scope IS NOT NULL
    ),
    in_turns AS (
      SELECT due.id, row_number() OVER (PARTITION BY s.scope ORDER BY due.available_at, due.id) AS turn
      FROM senders s CROSS JOIN LATERAL (
        SELECT e.id, e.available_at FROM events e
        WHERE e.state = 'pending' AND e.scope = s.scope AND e.available_at <= :instant
          AND e.component = ANY(:components)
          AND (e.leased_until IS NULL OR e.leased_until <= :instant)
          AND (e.type <> 'delete' OR NOT EXISTS (
            SELECT 1 FROM erasures x JOIN events other
              ON other.account = x.account AND other.component = x.component
              AND coalesce(other.person_hash, other.device_hash) = x.person_hash
              AND other.occurred_at <= x.erased_through
            WHERE x.event_id = e.id AND other.id <> e.id AND other.state = 'pending'
              AND (other.leased_until > :instant OR other.type = 'alias')
          ))
        ORDER BY e.available_at, e.id LIMIT :most
        FOR UPDATE OF e SKIP LOCKED
      ) AS due
      WHERE s.scope <> ALL(:skipped)
    ),
    chosen AS (SELECT id FROM in_turns ORDER BY turn, id LIMIT :most),
    earlier AS (SELECT e.id, e.lease FROM events e JOIN chosen USING (id))
    UPDATE events SET lease = :new_lease, leased_until = :new_end FROM earlier
    WHERE events.id = earlier.id
    RETURNING events.id, events.scope, events.type, events.account, events.component, events.key_id,
      events.install_id, events.received_at, events.occurred_at, events.person_hash, events.device_hash, events.body,
      events.settings, events.attempts, earlier.lease AS earlier_lease
    """
    )
    .bindparams(
        bindparam("components", type_=ARRAY(Text)),
        bindparam("skipped", type_=ARRAY(Text)),
        bindparam("instant", type_=UtcDateTime),
        bindparam("new_end", type_=UtcDateTime),
    )
    .columns(
        received_at=UtcDateTime,
        occurred_at=UtcDateTime,
    )
)


async def claim(
    connection: AsyncConnection,
    components: Collection[str],
    *,
    limit: int,
    lease: str,
    now: datetime,
    until: datetime,
    skip: Collection[str] = (),
) -> list[ClaimedEvent]:
    """Take due events that nobody holds: from the senders in turns, the oldest of each first.

    A delete waits while somebody still works on an event that it covers, whose handler could otherwise write the
    person back after they were erased; and for every alias that it covers, which tells what else is to be erased.
    """
    values = {
        "components": list(components),
        "skipped": list(skip),
        "most": limit,
        "instant": now,
        "new_lease": lease,
        "new_end": until,
    }
    rows = sorted((await connection.execute(_CLAIM, values)).mappings(), key=lambda row: int(row["id"]))
    if not rows:
        return []
    outcomes = await handler_outcomes(connection, [row["id"] for row in rows])
    tombstones = await erasing.find_tombstones(
        connection,
        (row["account"] for row in rows),
        (subject for row in rows if (subject := row["person_hash"] or row["device_hash"])),
    )
    return [_claimed(row, lease, outcomes, tombstones) for row in rows]


def _claimed(
    row: RowMapping,
    lease: str,
    outcomes: dict[int, list[HandlerRecord]],
    tombstones: dict[tuple[str, str, str], Tombstone],
) -> ClaimedEvent:
    tombstone = tombstones.get((row["account"], row["component"], row["person_hash"] or row["device_hash"] or ""))
    earlier = outcomes.get(row["id"], [])
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
        finished=tuple(HandlerResult(o.handler, o.state, o.error) for o in earlier if o.finished),
        suppressed=tombstone is not None and tombstone.covers(event_type=row["type"], occurred_at=row["occurred_at"]),
        scope=row["scope"],
        unfinished=tuple(outcome for outcome in earlier if not outcome.finished),
        interrupted=row["earlier_lease"] is not None,
    )


async def handler_outcomes(connection: AsyncConnection, event_ids: Sequence[int]) -> dict[int, list[HandlerRecord]]:
    """Return the newest outcome of each handler of some events, in the order of the handlers' names."""
    statement = (
        select(
            col(HandlerOutcome.event_id), *(col(getattr(HandlerOutcome, field.name)) for field in fields(HandlerRecord))
        )
        .where(col(HandlerOutcome.event_id).in_(event_ids))
        .order_by(col(HandlerOutcome.handler))
    )
    found: dict[int, list[HandlerRecord]] = defaultdict(list)
    for event_id, *values in (await connection.execute(statement)).all():
        found[event_id].append(HandlerRecord(*values))
    return found


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
                attempts=col(StoredEvent.attempts) + bindparam("new_attempts"),
                available_at=bindparam("new_available_at"),
                finished_at=bindparam("new_finished_at"),
                last_error=bindparam("new_error"),
                lease=None,
                leased_until=None,
            ),
            [
                {
                    "settled_id": settlement.event_id,
                    "new_attempts": int(settlement.attempted),
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
            "due_at": result.due_at,
            "since": settlement.at,
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
            "due_at": statement.excluded.due_at,
        },
    )
    await connection.execute(statement, rows)


async def count_due(connection: AsyncConnection, now: datetime, components: Collection[str] | None = None) -> int:
    """Count the pending events whose time has come, held by somebody or not."""
    statement = select(func.count()).where(_PENDING, col(StoredEvent.available_at) <= now)
    if components is not None:
        statement = statement.where(col(StoredEvent.component).in_(components))
    return (await connection.execute(statement)).scalar_one()
