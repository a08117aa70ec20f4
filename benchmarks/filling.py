"""A PostgreSQL log with millions of events, as receiving and handling them would have left it; some 30 µs for each.

The log makes its own partitions, for an event that it is given; the server makes up the others. They have the mix that
``benchmarks.growth`` stores: one in 100 ended otherwise than handled, one in 100,000 is of a rare account. Half of the
rest is of one customer and half of nineteen others, one in 20 is an ``identify``, one in 50,000 a ``delete`` that was
done, and one in 500,000 a further message of one. The newest are stored, handed out and settled through the log
itself, which leaves behind in its indexes what that leaves behind.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from hashlib import md5

from benchmarks.questions import RARE
from benchmarks.session import tell
from benchmarks.storing import store
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.message_key import key_of_message
from enable_with_segment.db.event_log.postgresql import partitions
from enable_with_segment.db.event_log.records import NewEvent, Settlement
from enable_with_segment.db.event_log.states import EventState

COMPONENT = "acme-crm"
_CHUNK = 100_000
_GROUP = 256
_CLAIM = 500
_PAD = 200

_MADE_UP = f"""
WITH made_up AS MATERIALIZED (
  SELECT id,
    CASE WHEN id % 100000 = 7 THEN '{RARE}' WHEN id % 50000 IN (11, 13) THEN 'customer-1' WHEN id % 2 = 0 THEN 'acme'
      ELSE 'customer-' || id / 2 % 19 END AS account,
    CASE WHEN id % 500000 = 13 OR id % 50000 = 11 THEN 'delete' WHEN id % 20 = 9 THEN 'identify'
      ELSE 'track' END AS type,
    CASE WHEN id % 10000 = 0 THEN 'dead_letter' WHEN id % 1000 = 0 THEN 'suppressed'
      WHEN id % 100 = 0 THEN 'unsupported' WHEN id % 500000 = 13 THEN 'repeated_delete' ELSE 'handled' END AS state,
    'ajs-next-' || md5(id::text) AS message_id,
    md5('person' || (hashint8(CASE WHEN id % 500000 = 13 THEN id - 2 ELSE id END) & 131071)) AS person_hash,
    $3::timestamptz + id * $4::interval AS at
  FROM generate_series($1::bigint, $2::bigint) AS id
),
keys AS (
  INSERT INTO message_keys (key, scope, id)
  SELECT decode(md5(message_id), 'hex') AS key, hashtextextended('install:ins-' || account, 0), id
  FROM made_up ORDER BY key
),
received AS (
  INSERT INTO bodies (id, body)
  SELECT id, convert_to('{{"messageId":"' || message_id || '","pad":"{"x" * _PAD}"}}', 'UTF8') FROM made_up
),
outcomes AS (
  INSERT INTO handler_outcomes (event_id, handler, state, attempts, at, error, since, results)
  SELECT id, 'crm', CASE state WHEN 'handled' THEN 'done' WHEN 'dead_letter' THEN 'failed' ELSE 'unsupported' END, 1,
    at, CASE state WHEN 'dead_letter' THEN 'it said ' || 500 + id / 10000 % 7 END, at, 1
  FROM made_up WHERE state IN ('handled', 'unsupported', 'dead_letter')
),
deletions AS (
  INSERT INTO erasures (account, component, person_hash, event_id, erased_through, requested_at, completed_at)
  SELECT account, '{COMPONENT}', person_hash, id, at + 2 * $4::interval, at, at
  FROM made_up WHERE type = 'delete' AND state = 'handled'
)
INSERT INTO events (id, scope, received_at, occurred_at, available_at, finished_at, account, component, key_id,
  install_id, message_id, type, event, person_hash, device_hash, state, attempts, last_error)
SELECT id, 'install:ins-' || account, at, at, at, at, account, '{COMPONENT}', 'key-' || account, 'ins-' || account,
  message_id, type, CASE type WHEN 'track' THEN 'Order Completed' END, person_hash, md5(person_hash), state, 1,
  CASE state WHEN 'dead_letter' THEN 'crm: it said ' || 500 + id / 10000 % 7 END
FROM made_up
"""  # noqa: S608  our own names


async def fill(database: Database, log: StoredEventLog, *, events: int, span: timedelta, through_log: int) -> None:
    """Fill an empty log.

    Args:
        events: how many it holds then.
        span: in how long they were received, evenly; the newest just now.
        through_log: how many of them go through the log itself.
    """
    now = datetime.now(UTC)
    apart, began = span / events, now - span
    end_of_made_up = events - through_log + 1
    upcoming = 1
    while upcoming < end_of_made_up:
        await log.append(new_event(f"first-{upcoming}", at=began + upcoming * apart))  # so there is a partition
        async with database.engine.connect() as connection:
            upcoming = await partitions.next_id(connection)
            end_id = next(found.end_id for found in await partitions.find(connection) if found.end_id > upcoming)
        for first in range(upcoming, min(end_id, end_of_made_up), _CHUNK):
            last = min(first + _CHUNK, end_id, end_of_made_up) - 1
            async with database.engine.begin() as connection:
                await connection.exec_driver_sql(_MADE_UP, (first, last, began, apart))
                await connection.exec_driver_sql("SELECT setval('event_ids', $1)", (last,))
            upcoming = last + 1
        tell(f"{upcoming - 1:,} of {events:,} events")
    await handle(log)
    for first in range(0, through_log, _CHUNK):
        await add_pending(log, min(_CHUNK, through_log - first), prefix=f"newest-{first}")
        await handle(log)


async def add_pending(log: StoredEventLog, events: int, *, prefix: str) -> None:
    """Store events of the twenty customers that nobody has handled."""
    for first in range(0, events, _GROUP):
        numbers = range(first, min(first + _GROUP, events))
        await asyncio.gather(*(store(log, new_event(f"{prefix}-{number}", sender=number % 20)) for number in numbers))


async def handle(log: StoredEventLog) -> None:
    """Hand out what waits, and settle it."""
    now = datetime.now(UTC) + timedelta(seconds=1)
    while claimed := await log.claim([COMPONENT], limit=_CLAIM, lease="a", now=now, until=now + timedelta(minutes=1)):
        await log.settle_all([Settlement(event.id, "a", EventState.HANDLED, now) for event in claimed])


async def vacuum(database: Database) -> None:
    """Vacuum and analyze each partition, which autovacuum does by and by; it never analyzes what they are parts of."""
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        found = await partitions.find(connection)
        tables = [one.table(name) for one in found for name in partitions.TABLES]
        for table in [*tables, "message_keys", "erasures"]:
            await connection.exec_driver_sql(f"VACUUM (ANALYZE) {table}")


def message_id_of(event_id: int) -> str:
    """Return the messageId that an event was made up with."""
    return f"ajs-next-{md5(str(event_id).encode()).hexdigest()}"  # noqa: S324  as the server does


def new_event(message_id: str, *, at: datetime | None = None, sender: int = 0) -> NewEvent:
    """Return an event of one of the customers."""
    now = at or datetime.now(UTC)
    account = f"customer-{sender}" if sender < 19 else "acme"
    return NewEvent(
        scope=f"install:ins-{account}",
        dedupe_key=key_of_message(message_id),
        received_at=now,
        occurred_at=now,
        account=account,
        component=COMPONENT,
        key_id=f"key-{account}",
        install_id=f"ins-{account}",
        message_id=message_id,
        type="track",
        event="Order Completed",
        person_hash=key_of_message(message_id[-5:]).hex(),
        device_hash=None,
        previous_hash=None,
        body=b'{"type":"track","pad":"' + b"x" * _PAD + b'"}',
        settings={},
    )
