"""Destinations: desired and seen."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import Destination


async def get(session: AsyncSession, install_id: str) -> Destination | None:
    """Return the destination of an install."""
    return await session.get(Destination, install_id)


async def want(
    session: AsyncSession, install_id: str, *, name: str, api_key_id: str, desired: dict[str, Any]
) -> Destination:
    """Store what the destination should be. ``desired`` holds no secret: the key is named by its id."""
    found = await session.get(Destination, install_id)
    if found is None:
        found = Destination(install_id=install_id, name=name, api_key_id=api_key_id, desired=desired)
    else:
        found.name, found.api_key_id, found.desired = name, api_key_id, desired
        found.verified_at = None
    session.add(found)
    await session.flush()
    return found


async def saw(session: AsyncSession, install_id: str, *, seen: dict[str, Any], now: datetime, verified: bool) -> None:
    """Store what Segment last said. ``seen`` holds no secret: a key in it is masked before it comes here."""
    found = await session.get(Destination, install_id)
    if found is None:
        raise KeyError(install_id)
    found.seen, found.seen_at = seen, now
    found.verified_at = now if verified else None
    session.add(found)
