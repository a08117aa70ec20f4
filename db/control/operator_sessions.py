"""Sessions of operators in the dashboard, kept on our side."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.flow_states import digest
from enable_with_segment.db.control.tables import OperatorSession


async def add(
    session: AsyncSession,
    token: str,
    *,
    operator: str,
    role: str,
    granted_by: str,
    now: datetime,
    expires_at: datetime,
) -> None:
    """Store a new session."""
    session.add(
        OperatorSession(
            token_hash=digest(token),
            operator=operator,
            role=role,
            granted_by=granted_by,
            created_at=now,
            last_seen_at=now,
            expires_at=expires_at,
        )
    )


async def find(session: AsyncSession, token: str) -> OperatorSession | None:
    """Return the session of a cookie, whatever state it is in."""
    return await session.get(OperatorSession, digest(token))


async def seen(session: AsyncSession, token: str, *, now: datetime) -> None:
    """Note that the operator is still there."""
    await session.exec(
        update(OperatorSession).where(col(OperatorSession.token_hash) == digest(token)).values(last_seen_at=now)
    )


async def end(session: AsyncSession, token: str, *, now: datetime) -> None:
    """End one session."""
    await session.exec(
        update(OperatorSession)
        .where(col(OperatorSession.token_hash) == digest(token), col(OperatorSession.ended_at).is_(None))
        .values(ended_at=now)
    )


async def end_all(session: AsyncSession, *, now: datetime) -> None:
    """End every session."""
    await session.exec(update(OperatorSession).where(col(OperatorSession.ended_at).is_(None)).values(ended_at=now))


async def purge(session: AsyncSession, *, before: datetime) -> None:
    """Delete sessions that expired before the given instant."""
    await session.exec(delete(OperatorSession).where(col(OperatorSession.expires_at) < before))
