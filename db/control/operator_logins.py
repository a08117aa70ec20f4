"""Logins of operators on their way to the identity provider and back; bound to one browser, consumed once."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, func, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.flow_states import digest
from enable_with_segment.db.control.tables import OperatorLogin


async def add(
    session: AsyncSession, *, state: str, cookie: str, return_to: str, now: datetime, expires_at: datetime
) -> None:
    """Store a new login; only hashes of the state and the cookie are kept."""
    session.add(
        OperatorLogin(
            state_hash=digest(state),
            cookie_hash=digest(cookie),
            return_to=return_to,
            created_at=now,
            expires_at=expires_at,
        )
    )


async def consume(session: AsyncSession, state: str, cookie: str, *, now: datetime) -> OperatorLogin | None:
    """Consume the login by one atomic statement; ``None`` unless it is open and belongs to this browser."""
    statement = (
        update(OperatorLogin)
        .where(
            col(OperatorLogin.state_hash) == digest(state),
            col(OperatorLogin.cookie_hash) == digest(cookie),
            col(OperatorLogin.consumed_at).is_(None),
            col(OperatorLogin.expires_at) > now,
        )
        .values(consumed_at=now)
        .returning(OperatorLogin)
    )
    return (await session.exec(statement)).scalar_one_or_none()


async def count_open(session: AsyncSession, *, now: datetime) -> int:
    """Count the logins that could still be completed."""
    statement = (
        select(func.count())
        .select_from(OperatorLogin)
        .where(col(OperatorLogin.consumed_at).is_(None), col(OperatorLogin.expires_at) > now)
    )
    return (await session.exec(statement)).one()


async def purge(session: AsyncSession, *, before: datetime) -> None:
    """Delete logins that expired before the given instant."""
    await session.exec(delete(OperatorLogin).where(col(OperatorLogin.expires_at) < before))
