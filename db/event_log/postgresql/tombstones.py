"""Tombstones: whom each deletion covers, and up to when."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, and_, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from enable_with_segment.db.event_log.postgresql.people import SUBJECT
from enable_with_segment.db.event_log.postgresql.statements import ERASURES, is_any_of
from enable_with_segment.db.event_log.tables import Erasure, StoredEvent


async def write_tombstones(
    connection: AsyncConnection,
    event_id: int,
    *,
    account: str,
    component: str,
    hashes: Iterable[str],
    through: datetime,
    requested_at: datetime,
) -> None:
    """Add tombstones for what a deletion covers; those that it has stay as they are."""
    rows = [
        {
            "account": account,
            "component": component,
            "person_hash": person_hash,
            "erased_through": through,
            "requested_at": requested_at,
            "event_id": event_id,
        }
        for person_hash in sorted(hashes)
    ]
    if rows:
        await connection.execute(insert(ERASURES).on_conflict_do_nothing(), rows)


def is_covered_by(event_id: int, hashes: Collection[str]) -> ColumnElement[bool]:
    """Compare an event with a deletion, of which it is known whom it covers: they say what to look at."""
    up_to_then = exists().where(
        col(Erasure.event_id) == event_id,
        col(Erasure.person_hash) == SUBJECT,
        col(Erasure.erased_through) >= col(StoredEvent.occurred_at),
    )
    return and_(is_any_of(SUBJECT, hashes), up_to_then)


async def complete(connection: AsyncConnection, event_id: int, *, now: datetime) -> None:
    """Note that everything that a deletion covers is wiped."""
    await connection.execute(update(Erasure).where(col(Erasure.event_id) == event_id).values(completed_at=now))


async def find_tombstones(
    connection: AsyncConnection, accounts: Iterable[str], subjects: Iterable[str]
) -> dict[tuple[str, str, str], datetime]:
    """Return up to when people were deleted, by account, component and subject, for those who were."""
    key = (col(Erasure.account), col(Erasure.component), col(Erasure.person_hash))
    statement = (
        select(*key, func.max(col(Erasure.erased_through)))
        .where(is_any_of(col(Erasure.account), set(accounts)), is_any_of(col(Erasure.person_hash), set(subjects)))
        .group_by(*key)
    )
    rows = (await connection.execute(statement)).all()
    return {(account, component, subject): through for account, component, subject, through in rows}
