"""Single-use links that sign an operator in where there is no identity provider."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.flow_states import digest
from enable_with_segment.db.control.tables import OperatorLink


async def add(session: AsyncSession, token: str, *, now: datetime, expires_at: datetime) -> None:
    """Store a new link."""
    session.add(OperatorLink(token_hash=digest(token), created_at=now, expires_at=expires_at))


async def use(session: AsyncSession, token: str, *, now: datetime) -> bool:
    """Use a link up by one atomic statement; tells whether it could be used."""
    statement = (
        update(OperatorLink)
        .where(
            col(OperatorLink.token_hash) == digest(token),
            col(OperatorLink.used_at).is_(None),
            col(OperatorLink.expires_at) > now,
        )
        .values(used_at=now)
        .returning(col(OperatorLink.token_hash))
    )
    return (await session.exec(statement)).scalar_one_or_none() is not None


async def use_all(session: AsyncSession, *, now: datetime) -> None:
    """Use every link up, so that none of them signs anybody in any more."""
    await session.exec(update(OperatorLink).where(col(OperatorLink.used_at).is_(None)).values(used_at=now))


async def any_made(session: AsyncSession) -> bool:
    """Tell whether there ever was a link."""
    return (await session.exec(select(func.count()).select_from(OperatorLink))).one() > 0
