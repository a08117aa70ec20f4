"""Replays and how far they have come, so that one that was cut off can go on."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import Replay


async def get(session: AsyncSession, replay_id: str) -> Replay | None:
    """Return a replay."""
    return await session.get(Replay, replay_id)


async def list_newest(session: AsyncSession, *, limit: int = 20) -> list[Replay]:
    """Return the newest replays, the newest first."""
    return list((await session.exec(select(Replay).order_by(col(Replay.started_at).desc()).limit(limit))).all())


async def advance(session: AsyncSession, replay_id: str, *, cursor: int, revived: int, now: datetime) -> None:
    """Note how far a replay has come, and how many more events it let be handled again."""
    await session.exec(
        update(Replay)
        .where(col(Replay.id) == replay_id)
        .values(cursor=cursor, revived=col(Replay.revived) + revived, updated_at=now)
    )


async def finish(session: AsyncSession, replay_id: str, *, now: datetime) -> None:
    """Note that a replay is done."""
    await session.exec(update(Replay).where(col(Replay.id) == replay_id).values(finished_at=now, updated_at=now))
