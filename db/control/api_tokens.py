"""API tokens: what a partner's backend authenticates with at our HTTP API; hashed, scoped, and expiring."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import ApiToken


def token_hash(token: str) -> str:
    """The stored form of a token (it has more than 230 random bits, so a plain SHA-256 is enough)."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


async def add(session: AsyncSession, token: ApiToken) -> None:
    """Store a new token."""
    session.add(token)
    await session.flush()


async def find_usable(session: AsyncSession, token: str, *, now: datetime) -> ApiToken | None:
    """Return the token if it is neither revoked nor expired."""
    found = (await session.exec(select(ApiToken).where(ApiToken.token_hash == token_hash(token)))).first()
    if found is None or found.revoked_at is not None or (found.expires_at is not None and found.expires_at <= now):
        return None
    return found


async def list_all(session: AsyncSession) -> list[ApiToken]:
    """Return every token, the newest first."""
    return list((await session.exec(select(ApiToken).order_by(col(ApiToken.created_at).desc()))).all())


async def revoke(session: AsyncSession, token_id: str, *, now: datetime) -> bool:
    """Revoke a token at once; tells whether it was usable before."""
    statement = (
        update(ApiToken)
        .where(col(ApiToken.id) == token_id, col(ApiToken.revoked_at).is_(None))
        .values(revoked_at=now)
        .returning(col(ApiToken.id))
    )
    return (await session.exec(statement)).scalar_one_or_none() is not None


async def revoke_all(session: AsyncSession, *, now: datetime) -> None:
    """Revoke every token."""
    await session.exec(update(ApiToken).where(col(ApiToken.revoked_at).is_(None)).values(revoked_at=now))
