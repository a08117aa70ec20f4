"""Events on their way in: one statement for a group, duplicates counted, tombstones written with their deletes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import LargeBinary, Text, bindparam, delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from enable_with_segment.db.event_log.deletion import Repetition
from enable_with_segment.db.event_log.instants import to_microseconds
from enable_with_segment.db.event_log.message_key import same_content
from enable_with_segment.db.event_log.postgresql import deletion
from enable_with_segment.db.event_log.records import Appended, NewEvent, ReplayPolicy
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.db.event_log.tables import HandlerOutcome, StoredBody, StoredEvent


async def append(
    connection: AsyncConnection, events: Sequence[NewEvent], replays: ReplayPolicy
) -> tuple[list[Appended], list[Repetition]]:
    """Store the events that are new, in one statement, and count the others as duplicates.

    Returns:
        The answers, and the deletes of which more has to be asked when this is committed (``deletion.confirm``).
    """
    ids: list[int | None] = (await connection.exec_driver_sql(INSERT_GROUP, parameters(events))).scalar_one()
    again = [event for event, event_id in zip(events, ids, strict=True) if event_id is None]
    differing = await count_duplicates(connection, again, replays)
    repetitions = []
    deletes = [
        (event_id, event)
        for event, event_id in zip(events, ids, strict=True)
        if event_id is not None and event.type == "delete"
    ]
    # Sorted for the same reason as duplicates: a repeated delete changes the tombstones of the one it repeats.
    for event_id, event in sorted(deletes, key=lambda one: (one[1].account, one[1].component, one[1].person_hash)):
        repetition = await deletion.request(connection, event_id, event)
        if repetition is not None:
            repetitions.append(repetition)
    return answers(ids, differing), repetitions


def answers(ids: Sequence[int | None], differing: Sequence[bool]) -> list[Appended]:
    """Return the answers for events with these ids, where ``differing`` is about those without one: the duplicates."""
    differs = iter(differing)
    return [Appended(None, next(differs)) if event_id is None else Appended(event_id) for event_id in ids]


def parameters(events: Sequence[NewEvent]) -> tuple[Any, ...]:
    """Return the parameters of ``INSERT_GROUP``.

    The driver takes its time over each element of an array. So what events have in common is sent once, a column
    that is empty is not sent, and what is of one length goes as one value.
    """
    shared: dict[tuple[str | None, ...], int] = {}
    origins = [shared.setdefault(_SHARED(event), len(shared) + 1) for event in events]
    return (
        *zip(*shared, strict=True),
        origins,
        b"".join([event.dedupe_key for event in events]),
        [to_microseconds(event.received_at) for event in events],
        [to_microseconds(event.occurred_at) for event in events],
        *(_unless_empty([column(event) for event in events]) for column in _OPTIONAL),
        [event.body for event in events],
    )


def _unless_empty(values: list[str | None]) -> list[str | None] | None:
    return values if any(values) else None


async def count_duplicates(
    connection: AsyncConnection, events: Sequence[NewEvent], replays: ReplayPolicy
) -> Sequence[bool]:
    """Count events that were in the log before; tells which of them have another body."""
    differing = [False] * len(events)
    # Sorted, so that two processes that count the same duplicates wait for each other in the same order.
    for place, event in sorted(enumerate(events), key=lambda one: (one[1].scope, one[1].dedupe_key)):
        original = (await connection.execute(_FIND, {"key": event.dedupe_key, "scope": event.scope})).scalar()
        if original is None:  # it was dropped meanwhile
            continue
        counted = {
            "duplicates": col(StoredEvent.duplicates) + 1,
            "replays": col(StoredEvent.replays) + int(event.replay),
        }
        await connection.execute(update(StoredEvent).where(col(StoredEvent.id) == original).values(counted))
        body = (
            await connection.execute(select(col(StoredBody.body)).where(col(StoredBody.id) == original))
        ).scalar_one_or_none()
        if body is None:
            continue
        if event.replay and replays is ReplayPolicy.DISPATCH:
            await _revive(connection, original, event)
        elif not event.replay and not same_content(body, event.body):
            differing[place] = True
            await connection.execute(
                update(StoredEvent)
                .where(col(StoredEvent.id) == original)
                .values(differing_duplicates=col(StoredEvent.differing_duplicates) + 1)
            )
    return differing


async def _revive(connection: AsyncConnection, event_id: int, event: NewEvent) -> None:
    """Hand a replayed event out again, if its first handling is over."""
    finished = col(StoredEvent.state).in_((EventState.HANDLED, EventState.UNSUPPORTED))
    revived = await connection.execute(
        update(StoredEvent)
        .where(col(StoredEvent.id) == event_id, finished)
        .values(state=EventState.PENDING, attempts=0, available_at=event.received_at, finished_at=None)
    )
    if revived.rowcount:
        await connection.execute(delete(HandlerOutcome).where(col(HandlerOutcome.event_id) == event_id))


def _settings(event: NewEvent) -> str | None:
    # Escaped to ASCII: a NUL inside a setting could not be stored by PostgreSQL.
    return json.dumps(dict(event.settings)) if event.settings else None


def _instant(microseconds: str) -> str:
    return f"timestamptz 'epoch' + {microseconds} * interval '1 microsecond'"


#: What many events of a group have in common.
_SHARED_COLUMNS = ("scope", "account", "component", "key_id", "install_id", "type", "event")
_SHARED: Callable[[NewEvent], tuple[str | None, ...]] = attrgetter(*_SHARED_COLUMNS)
_OWN_COLUMNS = ("message_id", "person_hash", "device_hash", "previous_hash")
_OPTIONAL: tuple[Callable[[NewEvent], str | None], ...] = (*map(attrgetter, _OWN_COLUMNS), _settings)

_FIND = text("SELECT id FROM message_keys WHERE key = :key AND scope = hashtextextended(:scope, 0)").bindparams(
    bindparam("key", type_=LargeBinary), bindparam("scope", type_=Text)
)

# The keys are written in one order, so that two processes that store the same messages wait for each other and don't
# block each other for good. The answer is one array: the id of each event, empty for a duplicate.
INSERT_GROUP = f"""
WITH incoming AS MATERIALIZED (
  SELECT nextval('event_ids') AS id, i.*, substr($9::bytea, 16 * (n - 1)::int + 1, 16) AS key,
    {", ".join(f"(${place}::text[])[origin] AS {name}" for place, name in enumerate(_SHARED_COLUMNS, 1))}
  FROM unnest($8::int[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
    $17::bytea[]) WITH ORDINALITY
    AS i (origin, received, occurred, {", ".join(_OWN_COLUMNS)}, settings, body, n)
),
fresh AS (
  INSERT INTO message_keys (key, scope, id)
  SELECT key, hashtextextended(scope, 0), id FROM incoming ORDER BY key, scope, id
  ON CONFLICT DO NOTHING RETURNING id
),
stored AS (
  INSERT INTO events (id, received_at, available_at, occurred_at, {", ".join(_SHARED_COLUMNS + _OWN_COLUMNS)})
  SELECT id, {_instant("received")}, {_instant("received")}, {_instant("occurred")},
    {", ".join(_SHARED_COLUMNS + _OWN_COLUMNS)}
  FROM incoming JOIN fresh USING (id)
),
kept AS (
  INSERT INTO bodies (id, body, settings) SELECT id, body, settings FROM incoming JOIN fresh USING (id)
)
SELECT array_agg(fresh.id ORDER BY n) FROM incoming LEFT JOIN fresh USING (id)
"""  # noqa: S608  our own names
