"""The outbox: work written in somebody's transaction and done afterwards, at least once, by whoever claims it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, or_, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import OutboxEntry
from enable_with_segment.db.identifiers import new_id


async def add(
    session: AsyncSession,
    kind: str,
    install_id: str,
    *,
    now: datetime,
    payload: dict[str, Any] | None = None,
    due: datetime | None = None,
) -> str:
    """Write an entry, due at once or at ``due``; returns its id. Its age is counted from when it is due."""
    entry = OutboxEntry(
        id=new_id("out"),
        kind=kind,
        install_id=install_id,
        payload=payload or {},
        created_at=due or now,
        available_at=due or now,
    )
    session.add(entry)
    await session.flush()
    return entry.id


async def claim(
    session: AsyncSession, *, kinds: Collection[str], owner: str, now: datetime, lease: timedelta
) -> OutboxEntry | None:
    """Lease the entry of these kinds that has been due longest, so that no other worker runs it at the same time."""
    due = (
        select(OutboxEntry.id)
        .where(
            col(OutboxEntry.kind).in_(kinds),
            col(OutboxEntry.finished_at).is_(None),
            col(OutboxEntry.available_at) <= now,
            or_(col(OutboxEntry.leased_until).is_(None), col(OutboxEntry.leased_until) <= now),
        )
        .order_by(col(OutboxEntry.available_at))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(OutboxEntry)
        .where(col(OutboxEntry.id) == due.scalar_subquery())
        .values(lease_owner=owner, leased_until=now + lease, attempts=col(OutboxEntry.attempts) + 1)
        .returning(OutboxEntry)
    )
    return (await session.exec(statement)).scalar_one_or_none()


async def finish(session: AsyncSession, entry_id: str, *, owner: str, now: datetime, error: str | None = None) -> bool:
    """Close the entry; ``False`` when the lease was lost meanwhile and somebody else has it."""
    return await _release(session, entry_id, owner, finished_at=now, last_error=error)


async def postpone(
    session: AsyncSession, entry_id: str, *, owner: str, until: datetime, error: str, begins_anew: bool = False
) -> bool:
    """Give the entry back to be tried again at ``until``.

    Args:
        begins_anew: nothing was tried, so its age is counted from ``until``.
    """
    values: dict[str, Any] = {"created_at": until, "attempts": 0} if begins_anew else {}
    return await _release(session, entry_id, owner, available_at=until, last_error=error, **values)


async def release_leases(session: AsyncSession, *, kinds: Collection[str]) -> None:
    """Free every lease on these kinds: for a start on SQLite, where no other worker of them can be alive."""
    await session.exec(
        update(OutboxEntry)
        .where(col(OutboxEntry.kind).in_(kinds), col(OutboxEntry.finished_at).is_(None))
        .values(lease_owner=None, leased_until=None)
    )


async def open_of_install(session: AsyncSession, install_id: str) -> list[OutboxEntry]:
    """Return what is still to be done for an install."""
    statement = select(OutboxEntry).where(OutboxEntry.install_id == install_id, col(OutboxEntry.finished_at).is_(None))
    return list((await session.exec(statement)).all())


async def open_of_kind(session: AsyncSession, kind: str) -> dict[str, datetime]:
    """Return when what is still to be done of one kind is due, by install; the latest if there are several."""
    statement = (
        select(OutboxEntry.install_id, OutboxEntry.available_at)
        .where(OutboxEntry.kind == kind, col(OutboxEntry.finished_at).is_(None))
        .order_by(col(OutboxEntry.available_at))
    )
    return dict((await session.exec(statement)).all())


async def purge(session: AsyncSession, *, finished_before: datetime) -> None:
    """Delete entries that were finished before the given instant."""
    await session.exec(delete(OutboxEntry).where(col(OutboxEntry.finished_at) < finished_before))


async def next_due(session: AsyncSession) -> datetime | None:
    """Return when the next unfinished, unleased entry is due."""
    statement = (
        select(OutboxEntry.available_at)
        .where(col(OutboxEntry.finished_at).is_(None))
        .order_by(col(OutboxEntry.available_at))
        .limit(1)
    )
    return (await session.exec(statement)).first()


async def _release(session: AsyncSession, entry_id: str, owner: str, **values: Any) -> bool:
    statement = (
        update(OutboxEntry)
        .where(col(OutboxEntry.id) == entry_id, col(OutboxEntry.lease_owner) == owner)
        .values(lease_owner=None, leased_until=None, **values)
        .returning(col(OutboxEntry.id))
    )
    return (await session.exec(statement)).scalar_one_or_none() is not None
