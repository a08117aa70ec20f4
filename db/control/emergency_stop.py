"""The emergency stop: one row that stops every process while it is there, and what erasing destroys."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control import api_tokens, operator_links, operator_sessions
from enable_with_segment.db.control.tables import (
    ApiKey,
    ConnectLink,
    EmergencyStop,
    FlowState,
    Install,
    InstallStatus,
    InstallToken,
    OperatorLogin,
)
from enable_with_segment.db.database import Database

_NAME = "service"
_ERASED = ("secrets_erased", "All access was erased by the operator. Please connect again.")


async def get(session: AsyncSession) -> EmergencyStop | None:
    """Return the stop that is in force."""
    return await session.get(EmergencyStop, _NAME)


async def read(database: Database) -> EmergencyStop | None:
    """Return the same in the quickest way, for deliveries that wait for it."""
    rows = await database.reads.rows(select(EmergencyStop).where(col(EmergencyStop.name) == _NAME))
    return rows[0][0] if rows else None


async def engage(session: AsyncSession, *, actor: str, reason: str, now: datetime) -> bool:
    """Stop the service; tells whether it was running before."""
    if await get(session) is not None:
        return False
    session.add(EmergencyStop(name=_NAME, actor=actor, reason=reason, engaged_at=now))
    await session.flush()
    return True


async def lift(session: AsyncSession) -> bool:
    """Let the service run again; tells whether it was stopped."""
    statement = delete(EmergencyStop).where(col(EmergencyStop.name) == _NAME).returning(col(EmergencyStop.name))
    return (await session.exec(statement)).scalar_one_or_none() is not None


async def erase_secrets(session: AsyncSession, *, now: datetime) -> tuple[int, int]:
    """Destroy every install token and API key, and end whatever else gives access.

    Installs and events stay; the installs need to be connected again. Returns how many tokens and keys there were.
    """
    # The rows stay: a refresh that is on its way finds the generation passed, and cannot store what it brings.
    tokens = await session.exec(
        update(InstallToken)
        .where(col(InstallToken.access_token_ciphertext).is_not(None))
        .values(
            access_token_ciphertext=None,
            generation=col(InstallToken.generation) + 1,
            lease_id=None,
            leased_until=None,
        )
    )
    keys = await session.exec(update(ApiKey).where(col(ApiKey.revoked_at).is_(None)).values(revoked_at=now))
    await session.exec(update(ApiKey).values(key_ciphertext=None, signing_secret_ciphertext=None))
    await session.exec(delete(ConnectLink))
    await session.exec(delete(FlowState))
    reason, detail = _ERASED
    await session.exec(
        update(Install)
        .where(col(Install.status).not_in([status for status in InstallStatus if status.over]))
        .values(status=InstallStatus.NEEDS_RECONNECT, status_reason=reason, status_detail=detail, updated_at=now)
    )
    await api_tokens.revoke_all(session, now=now)
    await operator_sessions.end_all(session, now=now)
    await operator_links.use_all(session, now=now)
    await session.exec(delete(OperatorLogin))
    return tokens.rowcount, keys.rowcount
