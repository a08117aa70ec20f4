"""Events on their way in: one statement for a group, duplicates counted, tombstones written with their deletes."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    first: dict[tuple[str, bytes], int] = {}
    for position, event in enumerate(events):
        first.setdefault((event.scope, event.dedupe_key), position)
    statement = (
        insert_into(connection, EVENTS)
        .on_conflict_do_nothing(index_elements=["scope", "dedupe_key"])
        .returning(EVENTS.c.id, EVENTS.c.scope, EVENTS.c.dedupe_key)
    )
    rows = (await connection.execute(statement, [_row(events[position]) for position in first.values()])).all()
    ids: dict[int, int] = {first[scope, key]: event_id for event_id, scope, key in rows}
    again = [event for position, event in enumerate(events) if position not in ids]
    if again:
        await _count_duplicates(connection, again, replays)
    for position, event_id in ids.items():
        if events[position].type == "delete":
            await erasing.request(connection, event_id, events[position])
    return [Appended(ids.get(position)) for position in range(len(events))]


async def _count_duplicates(connection: AsyncConnection, events: Sequence[NewEvent], replays: ReplayPolicy) -> None:
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


def _row(event: NewEvent) -> dict[str, Any]:
    return {
        "scope": event.scope,
        "dedupe_key": event.dedupe_key,
        "received_at": event.received_at,
        "occurred_at": event.occurred_at,
        "account": event.account,
        "component": event.component,
        "key_id": event.key_id,
        "install_id": event.install_id,
        "message_id": event.message_id,
        "type": event.type,
        "event": event.event,
        "person_hash": event.person_hash,
        "device_hash": event.device_hash,
        "previous_hash": event.previous_hash,
        "body": event.body,
        # Escaped to ASCII: a NUL inside a setting could not be stored by PostgreSQL.
        "settings": json.dumps(dict(event.settings)),
        "state": EventState.PENDING,
        "attempts": 0,
        "available_at": event.received_at,
        "duplicates": 0,
        "differing_duplicates": 0,
        "replays": 0,
    }
