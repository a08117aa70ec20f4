"""The right to refresh an install token: one holder at a time over all tasks, processes and hosts.

A lease is fenced. It has an id of its own and belongs to one generation of the token, and every write under it names
both: whoever was away for too long changes nothing. No transaction is open while Segment is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.install_tokens import NO_REFUSAL, Refusal, TokenHealth, place
from enable_with_segment.db.control.tables import InstallToken
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.identifiers import new_id


@dataclass(frozen=True, slots=True)
class TokenLease:
    """One attempt to refresh.

    Attributes:
        generation: of the token that is to be replaced.
        until: nothing may be sent to Segment from then on.
        health, failures: what was known about the token when the lease was taken.
        abandoned: the holder before never came back, so the outcome of its attempt is not known.
        refusal: the reason for which Segment refused until now, and ``refused_since`` since when.
    """

    id: str
    install_id: str
    generation: int
    until: datetime
    health: TokenHealth
    failures: int
    abandoned: bool
    refusal: str | None = None
    refused_since: datetime | None = None


async def acquire(session: AsyncSession, token: InstallToken, *, now: datetime, length: timedelta) -> TokenLease | None:
    """Take the lease on a token as it was read; ``None`` if somebody else did, or the token was replaced."""
    lease = TokenLease(
        id=new_id("lea"),
        install_id=token.install_id,
        generation=token.generation,
        until=now + length,
        health=TokenHealth(token.health),
        failures=token.failures,
        abandoned=token.lease_id is not None,
        refusal=token.refusal,
        refused_since=token.refused_since,
    )
    statement = (
        update(InstallToken)
        .where(
            col(InstallToken.install_id) == token.install_id,
            col(InstallToken.generation) == token.generation,
            or_(col(InstallToken.leased_until).is_(None), col(InstallToken.leased_until) <= now),
        )
        .values(lease_id=lease.id, leased_until=lease.until)
        .returning(col(InstallToken.generation))
    )
    return lease if (await session.exec(statement)).scalar_one_or_none() is not None else None


async def store(
    session: AsyncSession,
    keys: EncryptionKeys,
    lease: TokenLease,
    access_token: str,
    *,
    expires_at: datetime,
    now: datetime,
    still_failing: bool,
) -> bool:
    """Store a refreshed token and give the lease back; ``False``, and nothing changed, if the lease was lost.

    Args:
        still_failing: Segment refused even renewed tokens, so that this one has to be accepted first.
    """
    kept: dict[str, Any] = {"health": lease.health, "failures": lease.failures}
    return await _end(
        session,
        lease,
        access_token_ciphertext=keys.encrypt(access_token, place(lease.install_id)),
        expires_at=expires_at,
        refreshed_at=now,
        generation=lease.generation + 1,
        retry_at=None,
        **(kept if still_failing else {"health": TokenHealth.OK, "failures": 0, **NO_REFUSAL}),
    )


async def give_back(
    session: AsyncSession,
    lease: TokenLease,
    *,
    health: TokenHealth,
    failures: int,
    retry_at: datetime | None,
    refusal: Refusal | None = None,
) -> bool:
    """Give the lease back without a token; ``False``, and nothing changed, if it was lost.

    Args:
        refusal: what Segment answered; without one the stored refusal stays.
    """
    told = {} if refusal is None else refusal.values()
    return await _end(session, lease, health=health, failures=failures, retry_at=retry_at, **told)


async def _end(session: AsyncSession, lease: TokenLease, **values: Any) -> bool:
    statement = (
        update(InstallToken)
        .where(
            col(InstallToken.install_id) == lease.install_id,
            col(InstallToken.generation) == lease.generation,
            col(InstallToken.lease_id) == lease.id,
        )
        .values(lease_id=None, leased_until=None, **values)
        .returning(col(InstallToken.generation))
    )
    return (await session.exec(statement)).scalar_one_or_none() is not None
