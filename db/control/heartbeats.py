"""The service's running processes, and the ids of the encryption keys that each of them knows.

A key may only be put to use when every process knows it. Each says so itself, again and again; one that has not done so
for a minute counts as ended, so that nothing has to be cleared away after a crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import RunningProcess

LIVE_FOR = timedelta(minutes=1)
_KEPT_FOR = timedelta(days=1)


async def note(
    session: AsyncSession, process_id: str, *, role: str, key_ids: Sequence[str], started_at: datetime, now: datetime
) -> None:
    """Note that a process runs, and which keys it knows, the encrypting one first; long ended ones are deleted."""
    await session.exec(delete(RunningProcess).where(col(RunningProcess.seen_at) < now - _KEPT_FOR))
    process = RunningProcess(id=process_id, role=role, key_ids=list(key_ids), started_at=started_at, seen_at=now)
    await session.merge(process)


async def forget(session: AsyncSession, process_id: str) -> None:
    """Note that a process has ended."""
    await session.exec(delete(RunningProcess).where(col(RunningProcess.id) == process_id))


async def live(session: AsyncSession, *, now: datetime) -> Sequence[RunningProcess]:
    """Return the processes that run, as far as they say."""
    statement = select(RunningProcess).where(RunningProcess.seen_at > now - LIVE_FOR).order_by(col(RunningProcess.id))
    return (await session.exec(statement)).all()
