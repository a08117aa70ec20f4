"""What an operator sees of many installs at once: the record, the token's age, and work that keeps failing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import Install, InstallStatus, InstallToken, OutboxEntry


@dataclass(frozen=True, slots=True)
class InstallOverview:
    """One line of the list. ``waiting_error`` is why work in the outbox has not succeeded yet."""

    install: Install
    token_refreshed_at: datetime | None
    waiting_error: str | None


async def overview(session: AsyncSession, installs: Sequence[Install]) -> list[InstallOverview]:
    """Look up what belongs to some installs, in their order."""
    ids = [install.id for install in installs]
    refreshed = dict(
        (
            await session.exec(
                select(InstallToken.install_id, InstallToken.refreshed_at).where(
                    col(InstallToken.install_id).in_(ids), col(InstallToken.access_token_ciphertext).is_not(None)
                )
            )
        ).all()
    )
    waiting = dict(
        (
            await session.exec(
                select(OutboxEntry.install_id, func.max(OutboxEntry.last_error))
                .where(col(OutboxEntry.install_id).in_(ids), col(OutboxEntry.finished_at).is_(None))
                .group_by(col(OutboxEntry.install_id))
            )
        ).all()
    )
    return [InstallOverview(i, refreshed.get(i.id), waiting.get(i.id)) for i in installs]


async def count_by_status(session: AsyncSession) -> dict[str, int]:
    """Count installs by status."""
    rows = (await session.exec(select(Install.status, func.count()).group_by(col(Install.status)))).all()
    return {InstallStatus(status).value: count for status, count in rows}
