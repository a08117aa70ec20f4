"""Events on their way in: one statement for a group, duplicates counted, tombstones written with their deletes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, case, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from db.event_log import erasing
from db.event_log.records import Appended, NewEvent
from db.event_log.statements import EVENTS, insert_into
from db.event_log.tables import EventState, StoredEvent


async def append(connection: AsyncConnection, events: Sequence[NewEvent]) -> list[Appended]:
    """Store the events that are new, in one statement, and count the others as duplicates."""
    first: dict[tuple[str, str], int] = {}
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
        await _count_duplicates(connection, again)
    for position, event_id in ids.items():
        if events[position].type == "delete":
            await erasing.request(connection, event_id, events[position])
    return [Appended(ids.get(position)) for position in range(len(events))]


async def _count_duplicates(connection: AsyncConnection, events: Sequence[NewEvent]) -> None:
    differs = case((col(StoredEvent.body_hash) != bindparam("seen_hash"), 1), else_=0)
    statement = (
        update(StoredEvent)
        .where(col(StoredEvent.scope) == bindparam("seen_scope"), col(StoredEvent.dedupe_key) == bindparam("seen_key"))
        .values(
            duplicates=col(StoredEvent.duplicates) + 1,
            differing_duplicates=col(StoredEvent.differing_duplicates) + differs,
        )
    )
    # Sorted, so that two processes that count the same duplicates wait for each other in the same order.
    seen = sorted((event.scope, event.dedupe_key, event.body_hash) for event in events)
    parameters = [{"seen_scope": scope, "seen_key": key, "seen_hash": body_hash} for scope, key, body_hash in seen]
    await connection.execute(statement, parameters)


def _row(event: NewEvent) -> dict[str, Any]:
    return {
        "scope": event.scope,
        "dedupe_key": event.dedupe_key,
        "body_hash": event.body_hash,
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
    }
