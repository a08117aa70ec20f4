"""Events on their way out: claimed under a lease, settled under its fence."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from datetime import datetime

from sqlalchemy import ARRAY, BigInteger, RowMapping, bindparam, delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from enable_with_segment.db.event_log.deletion import erased_through
from enable_with_segment.db.event_log.postgresql import deletion
from enable_with_segment.db.event_log.postgresql.choosing import choose
from enable_with_segment.db.event_log.postgresql.statements import in_state, is_any
from enable_with_segment.db.event_log.records import ClaimedEvent, HandlerRecord, HandlerResult, Settlement
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.db.event_log.tables import HandlerOutcome, StoredBody, StoredEvent
from enable_with_segment.db.types import UtcDateTime

_LEASE = (
    text(
        """
    UPDATE events SET lease = :lease, leased_until = :until
    WHERE id = ANY(:ids) AND id BETWEEN :lowest AND :highest
    RETURNING id, scope, type, account, component, key_id, install_id, received_at, occurred_at, person_hash,
      device_hash, attempts
    """
    )
    .bindparams(
        bindparam("ids", type_=ARRAY(BigInteger)),
        bindparam("lowest", type_=BigInteger),
        bindparam("highest", type_=BigInteger),
        bindparam("until", type_=UtcDateTime),
    )
    .columns(received_at=UtcDateTime, occurred_at=UtcDateTime)
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
) -> tuple[list[ClaimedEvent], bool]:
    """Take due events that nobody holds: from the senders in turns, the oldest of each first.

    Deletions wait until they may begin (``db.event_log.deletion``).

    Returns:
        The events, and whether a deletion waits only for the commit of its tombstones.
    """
    chosen = await choose(connection, components, limit=limit, now=now, skip=skip)
    earlier = {row.id: row.lease for row in chosen}
    decided = await deletion.decide(
        connection,
        [row.id for row in chosen if row.type in ("delete", "alias")],
        begun={row.id for row in chosen if row.lease is not None},
        now=now,
    )
    event_ids = sorted(earlier.keys() - decided.waiting)
    if not event_ids:
        return [], decided.needs_commit
    # Two statements: a plan for both together would be for as many events as the log has.
    bounds = {"ids": event_ids, "lowest": event_ids[0], "highest": event_ids[-1]}
    locked = await connection.execute(_LEASE, {"lease": lease, "until": until, **bounds})
    rows = sorted(locked.mappings(), key=lambda row: int(row["id"]))
    outcomes = await handler_outcomes(connection, event_ids)
    contents = await bodies(connection, event_ids)
    deleted = await deletion.find_deleted(
        connection,
        (row["account"] for row in rows),
        (subject for row in rows if (subject := row["person_hash"] or row["device_hash"])),
    )
    claimed = [
        _claimed(
            row,
            lease,
            contents.get(row["id"], (b"", None)),
            earlier=outcomes.get(row["id"], []),
            deleted_through=erased_through(
                row["type"],
                row["occurred_at"],
                person=deleted.get((row["account"], row["component"], row["person_hash"] or row["device_hash"] or "")),
                merge=decided.late_merges.get(row["id"]),
            ),
            interrupted=earlier[row["id"]] is not None,
        )
        for row in rows
    ]
    return claimed, decided.needs_commit


def _claimed(
    row: RowMapping,
    lease: str,
    content: tuple[bytes, str | None],
    *,
    earlier: list[HandlerRecord],
    deleted_through: datetime | None,
    interrupted: bool,
) -> ClaimedEvent:
    body, settings = content
    return ClaimedEvent(
        id=row["id"],
        lease=lease,
        type=row["type"],
        account=row["account"],
        component=row["component"],
        key_id=row["key_id"],
        install_id=row["install_id"],
        received_at=row["received_at"],
        body=body,
        settings=json.loads(settings or "{}"),
        attempts=row["attempts"],
        finished=tuple(HandlerResult(o.handler, o.state, o.error) for o in earlier if o.finished),
        suppressed=deleted_through is not None,
        scope=row["scope"],
        unfinished=tuple(outcome for outcome in earlier if not outcome.finished),
        interrupted=interrupted,
        erased_through=deleted_through,
    )


async def bodies(connection: AsyncConnection, event_ids: Sequence[int]) -> dict[int, tuple[bytes, str | None]]:
    """Return the body and the settings of those events that still have them."""
    statement = select(col(StoredBody.id), col(StoredBody.body), col(StoredBody.settings))
    rows = await connection.execute(statement.where(is_any(StoredBody.id, event_ids)))
    return {event_id: (body, settings) for event_id, body, settings in rows.all() if event_id is not None}


async def handler_outcomes(connection: AsyncConnection, event_ids: Sequence[int]) -> dict[int, list[HandlerRecord]]:
    """Return the newest outcome of each handler of some events, in the order of the handlers' names."""
    statement = (
        select(
            col(HandlerOutcome.event_id), *(col(getattr(HandlerOutcome, field.name)) for field in fields(HandlerRecord))
        )
        .where(is_any(HandlerOutcome.event_id, event_ids))
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
        .where(is_any(StoredEvent.id, event_ids), col(StoredEvent.lease) == lease)
        .values(leased_until=until)
    )


async def release(connection: AsyncConnection, lease: str, event_ids: Sequence[int]) -> None:
    """Give events back without counting an attempt."""
    await connection.execute(
        update(StoredEvent)
        .where(is_any(StoredEvent.id, event_ids), col(StoredEvent.lease) == lease)
        .values(lease=None, leased_until=None)
    )


async def settle(connection: AsyncConnection, settlements: Sequence[Settlement]) -> list[bool]:
    """Record how attempts ended, for those whose lease is still the one they were claimed under."""
    in_order = sorted(settlements, key=lambda settlement: settlement.event_id)
    if not in_order:
        return []
    columns = tuple([column(one) for one in in_order] for column in _SETTLED)
    rows = await connection.exec_driver_sql(_SETTLE, (*columns, in_order[0].event_id, in_order[-1].event_id))
    held = {tuple(row) for row in rows.all()}
    settled = [(settlement.event_id, settlement.lease) in held for settlement in settlements]
    ours = [settlement for settlement, is_ours in zip(settlements, settled, strict=True) if is_ours]
    await _save_outcomes(connection, ours)
    erased = [settlement.event_id for settlement in ours if settlement.erases_content]
    if erased:
        await _forget_contents(connection, erased)
    for settlement in ours:
        if settlement.ends_deletion:
            await deletion.complete(connection, settlement.event_id, now=settlement.at)
    return settled


async def _forget_contents(connection: AsyncConnection, event_ids: Sequence[int]) -> None:
    await connection.execute(
        update(HandlerOutcome).where(is_any(HandlerOutcome.event_id, event_ids)).values(error=None)
    )
    await connection.execute(delete(StoredBody).where(is_any(StoredBody.id, event_ids)))
    await connection.execute(update(StoredEvent).where(is_any(StoredEvent.id, event_ids)).values(erased=True))


async def _save_outcomes(connection: AsyncConnection, settlements: Sequence[Settlement]) -> None:
    results = [(settlement, result) for settlement in settlements for result in settlement.results]
    if results:
        columns = tuple([column(*one) for one in results] for column in _OUTCOME)
        await connection.exec_driver_sql(_SAVE_OUTCOMES, columns)


_SETTLED: tuple[Callable[[Settlement], object], ...] = (
    lambda settlement: settlement.event_id,
    lambda settlement: settlement.lease,
    lambda settlement: settlement.state.value,
    lambda settlement: int(settlement.attempted),
    lambda settlement: settlement.available_at or settlement.at,
    lambda settlement: None if settlement.state is EventState.PENDING else settlement.at,
    lambda settlement: settlement.error,
    lambda settlement: settlement.keeps_lease,
)
# The lowest and the highest id say which partitions need not be looked into.
_SETTLE = """
UPDATE events SET state = s.state, attempts = events.attempts + s.attempts, available_at = s.available_at,
  finished_at = s.finished_at, last_error = s.error, lease = CASE WHEN s.keeps THEN s.lease END,
  leased_until = CASE WHEN s.keeps THEN events.leased_until END
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::int[], $5::timestamptz[], $6::timestamptz[], $7::text[],
  $8::boolean[]) AS s (id, lease, state, attempts, available_at, finished_at, error, keeps)
WHERE events.id = s.id AND events.lease = s.lease AND events.state = 'pending' AND events.id BETWEEN $9 AND $10
RETURNING s.id, s.lease
"""
_OUTCOME: tuple[Callable[[Settlement, HandlerResult], object], ...] = (
    lambda settlement, _: settlement.event_id,
    lambda _, result: result.handler,
    lambda _, result: result.state.value,
    lambda settlement, _: settlement.at,
    lambda _, result: result.error,
    lambda _, result: result.due_at,
)
_SAVE_OUTCOMES = """
INSERT INTO handler_outcomes AS old (event_id, handler, state, attempts, at, error, due_at, since, results)
SELECT r.id, r.handler, r.state, 1, r.at, r.error, r.due_at, CASE WHEN r.state <> 'unknown' THEN r.at END,
  (r.state <> 'unknown')::int
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::timestamptz[])
  AS r (id, handler, state, at, error, due_at)
ON CONFLICT (event_id, handler) DO UPDATE SET state = excluded.state, attempts = old.attempts + 1, at = excluded.at,
  error = excluded.error, due_at = excluded.due_at, since = coalesce(old.since, excluded.since),
  results = old.results + excluded.results
"""


async def count_due(connection: AsyncConnection, now: datetime, components: Collection[str] | None = None) -> int:
    """Count the pending events whose time has come, held by somebody or not."""
    statement = select(func.count()).where(in_state(EventState.PENDING), col(StoredEvent.available_at) <= now)
    if components is not None:
        statement = statement.where(col(StoredEvent.component).in_(components))
    return (await connection.execute(statement)).scalar_one()
