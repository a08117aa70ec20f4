"""Components and handlers that get no events for the time being."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import Pause


async def get_all(session: AsyncSession) -> Sequence[Pause]:
    """Return every pause."""
    return (await session.exec(select(Pause).order_by(col(Pause.component), col(Pause.handler)))).all()


async def add(session: AsyncSession, *, component: str, handler: str | None, actor: str, now: datetime) -> bool:
    """Pause a component, or one of its handlers; tells whether it was running before."""
    if await session.get(Pause, (component, handler or "")) is not None:
        return False
    session.add(Pause(component=component, handler=handler or "", actor=actor, paused_at=now))
    await session.flush()
    return True


async def remove(session: AsyncSession, *, component: str, handler: str | None) -> bool:
    """End a pause; tells whether there was one."""
    statement = (
        delete(Pause)
        .where(col(Pause.component) == component, col(Pause.handler) == (handler or ""))
        .returning(col(Pause.component))
    )
    return (await session.exec(statement)).scalar_one_or_none() is not None
