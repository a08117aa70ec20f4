"""Connect links: single use, short-lived, hashed."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from sqlalchemy import delete, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import ConnectLink


def token_hash(token: str) -> str:
    """The stored form of a link's token (it has 256 random bits, so a plain SHA-256 is enough)."""
    return hashlib.sha256(token.encode()).hexdigest()


async def add(
    session: AsyncSession,
    token: str,
    *,
    account: str,
    component: str,
    return_to: str | None,
    settings: dict[str, Any],
    reconnects: str | None = None,
    now: datetime,
    expires_at: datetime,
) -> None:
    """Store a new link."""
    session.add(
        ConnectLink(
            token_hash=token_hash(token),
            account=account,
            component=component,
            return_to=return_to,
            settings=settings,
            reconnects=reconnects,
            created_at=now,
            expires_at=expires_at,
        )
    )


async def find(session: AsyncSession, token: str, *, component: str, now: datetime) -> ConnectLink | None:
    """Return a component's link that has not expired, used or not."""
    found = await session.get(ConnectLink, token_hash(token))
    return None if found is None or found.component != component or found.expires_at <= now else found


async def find_usable(session: AsyncSession, token: str, *, component: str, now: datetime) -> ConnectLink | None:
    """Return a component's link if it is neither used nor expired; looking does not use it up."""
    found = await find(session, token, component=component, now=now)
    return None if found is None or found.used_at is not None else found


async def use(session: AsyncSession, token: str, *, component: str, now: datetime) -> ConnectLink | None:
    """Use the link up by one atomic statement; ``None`` when it was used, has expired or never existed."""
    statement = (
        update(ConnectLink)
        .where(
            col(ConnectLink.token_hash) == token_hash(token),
            col(ConnectLink.component) == component,
            col(ConnectLink.used_at).is_(None),
            col(ConnectLink.expires_at) > now,
        )
        .values(used_at=now)
        .returning(ConnectLink)
    )
    return (await session.exec(statement)).scalar_one_or_none()


async def purge(session: AsyncSession, *, before: datetime) -> None:
    """Delete links that expired before the given instant."""
    await session.exec(delete(ConnectLink).where(col(ConnectLink.expires_at) < before))
