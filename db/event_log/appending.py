"""Events on their way in: one statement for a group, duplicates counted, tombstones written with their deletes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from db.event_log import erasing
from db.event_log.message_key import same_content
from db.event_log.records import Appended, NewEvent, ReplayPolicy
from db.event_log.statements import EVENTS, insert_into
from db.event_log.tables import EventState, HandlerOutcome, StoredEvent


async def append(connection: AsyncConnection, events: Sequence[NewEvent], replays: ReplayPolicy) -> list[Appended]:
    """Store the events that are new, in one statement, and count the others as duplicates."""
    first = first_of_each(events)
    new = [events[position] for position in first.values()]
    insert = _insert_arrays if connection.dialect.name == "postgresql" else _insert_rows
    ids = {first[scope, key]: event_id for event_id, scope, key in await insert(connection, new)}
    again = [event for position, event in enumerate(events) if position not in ids]
    if again:
        await count_duplicates(connection, again, replays)
    for position, event_id in ids.items():
        if events[position].type == "delete":
            await erasing.request(connection, event_id, events[position])
    return [Appended(ids.get(position)) for position in range(len(events))]


def first_of_each(events: Sequence[NewEvent]) -> dict[tuple[str, bytes], int]:
    """Return where each message stands first.

    Sorted, so that two processes that store the same messages wait for each other in the same order.
    """
    first: dict[tuple[str, bytes], int] = {}
    for position, event in enumerate(events):
        first.setdefault((event.scope, event.dedupe_key), position)
    return dict(sorted(first.items()))


async def _insert_arrays(connection: AsyncConnection, events: Sequence[NewEvent]) -> Sequence[Any]:
    """Insert with one array for each column: one statement, prepared once, whatever the number of events."""
    return (await connection.exec_driver_sql(INSERT_ARRAYS, arrays(events))).all()


def arrays(events: Sequence[NewEvent]) -> tuple[list[Any], ...]:
    """Return the parameters of ``INSERT_ARRAYS``."""
    return tuple([column(event) for event in events] for _, _, column in _COLUMNS)


async def _insert_rows(connection: AsyncConnection, events: Sequence[NewEvent]) -> Sequence[Any]:
    statement = (
        insert_into(connection, EVENTS)
        .on_conflict_do_nothing(index_elements=["scope", "dedupe_key"])
        .returning(EVENTS.c.id, EVENTS.c.scope, EVENTS.c.dedupe_key)
    )
    rows = [{name: column(event) for name, _, column in _COLUMNS} | _INITIAL for event in events]
    return (await connection.execute(statement, rows)).all()


async def count_duplicates(connection: AsyncConnection, events: Sequence[NewEvent], replays: ReplayPolicy) -> None:
    """Count events that were in the log before, and those of them that have another body."""
    # Sorted, so that two processes that count the same duplicates wait for each other in the same order.
    for event in sorted(events, key=lambda event: (event.scope, event.dedupe_key)):
        original = (col(StoredEvent.scope) == event.scope, col(StoredEvent.dedupe_key) == event.dedupe_key)
        counted = {
            "duplicates": col(StoredEvent.duplicates) + 1,
            "replays": col(StoredEvent.replays) + int(event.replay),
        }
        body = (
            await connection.execute(
                update(StoredEvent).where(*original).values(counted).returning(col(StoredEvent.body))
            )
        ).scalar_one()
        if body is None:
            continue
        if event.replay and replays is ReplayPolicy.DISPATCH:
            await _revive(connection, original, event)
        elif not event.replay and not same_content(body, event.body):
            await connection.execute(
                update(StoredEvent)
                .where(*original)
                .values(differing_duplicates=col(StoredEvent.differing_duplicates) + 1)
            )


async def _revive(connection: AsyncConnection, original: tuple[ColumnElement[bool], ...], event: NewEvent) -> None:
    """Hand a replayed event out again, if its first handling is over."""
    finished = (*original, col(StoredEvent.state).in_((EventState.HANDLED, EventState.UNSUPPORTED)))
    await connection.execute(
        delete(HandlerOutcome).where(col(HandlerOutcome.event_id).in_(select(col(StoredEvent.id)).where(*finished)))
    )
    await connection.execute(
        update(StoredEvent)
        .where(*finished)
        .values(state=EventState.PENDING, attempts=0, available_at=event.received_at, finished_at=None)
    )


def _settings(event: NewEvent) -> str:
    # Escaped to ASCII: a NUL inside a setting could not be stored by PostgreSQL.
    return json.dumps(dict(event.settings)) if event.settings else "{}"


_COLUMNS: tuple[tuple[str, str, Callable[[NewEvent], Any]], ...] = (
    ("scope", "text", attrgetter("scope")),
    ("dedupe_key", "bytea", attrgetter("dedupe_key")),
    ("received_at", "timestamptz", attrgetter("received_at")),
    ("occurred_at", "timestamptz", attrgetter("occurred_at")),
    ("account", "text", attrgetter("account")),
    ("component", "text", attrgetter("component")),
    ("key_id", "text", attrgetter("key_id")),
    ("install_id", "text", attrgetter("install_id")),
    ("message_id", "text", attrgetter("message_id")),
    ("type", "text", attrgetter("type")),
    ("event", "text", attrgetter("event")),
    ("person_hash", "text", attrgetter("person_hash")),
    ("device_hash", "text", attrgetter("device_hash")),
    ("previous_hash", "text", attrgetter("previous_hash")),
    ("body", "bytea", attrgetter("body")),
    ("settings", "text", _settings),
    ("available_at", "timestamptz", attrgetter("received_at")),
)
_INITIAL = {
    "state": EventState.PENDING,
    "attempts": 0,
    "duplicates": 0,
    "differing_duplicates": 0,
    "replays": 0,
}
INSERT_ARRAYS = (
    f"INSERT INTO events ({', '.join(name for name, _, _ in _COLUMNS)}, {', '.join(_INITIAL)})"  # noqa: S608  our own names
    f" SELECT *, '{EventState.PENDING}', 0, 0, 0, 0"
    f" FROM unnest({', '.join(f'${place}::{kind}[]' for place, (_, kind, _) in enumerate(_COLUMNS, 1))})"
    " ON CONFLICT (scope, dedupe_key) DO NOTHING RETURNING id, scope, dedupe_key"
)
