"""The audit: who did what to what, and when. Entries are only ever added."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import AuditEntry
from enable_with_segment.db.identifiers import new_id


async def add(
    session: AsyncSession,
    *,
    actor: str,
    action: str,
    subject: str,
    now: datetime,
    reason: str | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Write one entry.

    Args:
        actor: ``service``, ``cli``, ``account:ID``, ``api_token:ID`` or ``operator:NAME``.
        reason: why, in the actor's own words.
        detail: must hold no secret and no personal data.
    """
    session.add(
        AuditEntry(
            id=new_id("aud"),
            at=now,
            actor=actor,
            action=action,
            subject=subject,
            reason=reason,
            detail=detail or {},
        )
    )


async def list_newest(
    session: AsyncSession, *, action: str | None = None, subject: str | None = None, limit: int = 100
) -> list[AuditEntry]:
    """Return the newest entries that match, the newest first."""
    statement = select(AuditEntry).order_by(col(AuditEntry.at).desc(), col(AuditEntry.id)).limit(limit)
    if action is not None:
        statement = statement.where(AuditEntry.action == action)
    if subject is not None:
        statement = statement.where(AuditEntry.subject == subject)
    return list((await session.exec(statement)).all())


async def subjects(session: AsyncSession, *, action: str) -> set[str]:
    """Return everything that an action was done to."""
    return set((await session.exec(select(AuditEntry.subject).where(AuditEntry.action == action).distinct())).all())
