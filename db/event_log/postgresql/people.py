"""Whose events are whose, and which ids are one person's."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from enable_with_segment.db.event_log.postgresql.statements import is_any_of
from enable_with_segment.db.event_log.tables import StoredEvent

#: Whose an event is: the person's, or the device's while nobody is known.
SUBJECT = func.coalesce(col(StoredEvent.person_hash), col(StoredEvent.device_hash))


async def merged_hashes(
    connection: AsyncConnection, account: str, component: str, person_hash: str, *, through: datetime
) -> set[str]:
    """Return the person, every id that was merged into them by alias, and the devices they were seen on.

    Args:
        through: what happened later does not count.
    """
    people, devices, frontier = {person_hash}, set[str](), {person_hash}
    while frontier:
        statement = (
            select(col(StoredEvent.previous_hash), col(StoredEvent.device_hash))
            .where(
                col(StoredEvent.account) == account,
                col(StoredEvent.component) == component,
                col(StoredEvent.occurred_at) <= through,
                is_any_of(SUBJECT, frontier),
                is_any_of(col(StoredEvent.person_hash), frontier),
            )
            .distinct()
        )
        rows = (await connection.execute(statement)).all()
        devices |= {device for _, device in rows if device is not None}
        frontier = {previous for previous, _ in rows if previous is not None} - people
        people |= frontier
    return people | devices
