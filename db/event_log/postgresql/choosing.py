"""Which events are handed out next: from the senders in turns, the oldest of each first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Row, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from enable_with_segment.db.event_log.postgresql.statements import OLDEST_PENDING
from enable_with_segment.db.types import UtcDateTime

# The senders are found by stepping through an index that holds pending events only, one step for each, and their
# oldest events are taken in turns. Partitions from before the oldest pending event are not looked into. Deletions that
# certainly have to wait are passed over (``deletion``). What is looked at is locked, which is a write for
# each event: so of each sender at first only the share is that makes enough events if all senders have that many.
# A plan that was made while little was stored would look through all that is pending, or all tombstones, for each
# deletion. OFFSET and count() leave it no other way than by the indexes of subjects and of a tombstone's event.
_CHOOSE = text(
    """
    WITH RECURSIVE senders (scope) AS (
      (SELECT scope FROM events WHERE state = 'pending' AND id >= :oldest ORDER BY scope LIMIT 1)
      UNION ALL
      SELECT (SELECT e.scope FROM events e
        WHERE e.state = 'pending' AND e.id >= :oldest AND e.scope > s.scope ORDER BY e.scope LIMIT 1)
      FROM senders s WHERE s.scope IS NOT NULL
    ),
    shares AS (
      SELECT coalesce(:share, (:most + count(*) - 1) / greatest(count(*), 1)) AS share
      FROM senders s WHERE s.scope IS NOT NULL AND s.scope <> ALL(:skipped)
    ),
    in_turns AS (
      SELECT due.id, due.lease, due.type, s.scope,
        row_number() OVER (PARTITION BY s.scope ORDER BY due.available_at, due.id) AS turn
      FROM senders s CROSS JOIN LATERAL (
        SELECT e.id, e.lease, e.type, e.available_at FROM events e
        WHERE e.state = 'pending' AND e.id >= :oldest AND e.scope = s.scope
          AND e.available_at <= :instant
          AND e.component = ANY(:components)
          AND (e.leased_until IS NULL OR e.leased_until <= :instant)
          AND (e.type NOT IN ('delete', 'alias') OR NOT EXISTS (
            SELECT 1 FROM erasures x CROSS JOIN LATERAL (
              SELECT * FROM events o
              WHERE coalesce(o.person_hash, o.device_hash) = x.person_hash AND o.id >= :oldest OFFSET 0
            ) AS other
            WHERE x.event_id = e.id AND other.id <> e.id AND other.state = 'pending'
              AND other.account = x.account AND other.component = x.component
              AND other.occurred_at <= x.erased_through
              AND (other.leased_until > :instant OR (
                e.type = 'delete' AND e.lease IS NULL AND e.attempts = 0 AND other.type = 'alias'
                AND NOT EXISTS (SELECT 1 FROM handler_outcomes done WHERE done.event_id = e.id)
                AND (SELECT count(*) FROM erasures own WHERE own.event_id = other.id) = 0))
          ))
        ORDER BY e.available_at, e.id LIMIT (SELECT share FROM shares)
        FOR UPDATE OF e SKIP LOCKED
      ) AS due
      WHERE s.scope <> ALL(:skipped)
    )
    SELECT id, lease, type, scope, share FROM in_turns, shares ORDER BY turn, id LIMIT :most
    """
).bindparams(
    bindparam("components", type_=ARRAY(Text)),
    bindparam("skipped", type_=ARRAY(Text)),
    bindparam("instant", type_=UtcDateTime),
    bindparam("oldest", type_=BigInteger),
    bindparam("most", type_=BigInteger),
    bindparam("share", type_=BigInteger),
)


async def choose(
    connection: AsyncConnection, components: Collection[str], *, limit: int, now: datetime, skip: Collection[str] = ()
) -> Sequence[Row[Any]]:
    """Lock up to ``limit`` due events that nobody holds, in the senders' turns: their id, lease, type and scope.

    It looks further at each sender's while some have more than their share.
    """
    oldest = (await connection.execute(OLDEST_PENDING)).scalar()
    if oldest is None:
        return ()
    values = {
        "oldest": oldest,
        "components": list(components),
        "skipped": list(skip),
        "instant": now,
        "most": limit,
    }
    share: int | None = None
    while True:
        chosen = (await connection.execute(_CHOOSE, {**values, "share": share})).all()
        if not chosen or len(chosen) == limit:
            return chosen
        share = int(chosen[0].share)
        have_more = sum(count == share for count in Counter(row.scope for row in chosen).values())
        if not have_more:
            return chosen
        share += max(share, (limit - len(chosen)) // have_more)
