"""Install tokens: one per install, encrypted. A refresh replaces them under a lease (``db.control.token_leases``)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import InstallToken
from enable_with_segment.db.encryption import EncryptionKeys, Place


class TokenHealth(StrEnum):
    """What is known about a stored token."""

    OK = "ok"
    UNCERTAIN = "uncertain"
    """A refresh was sent and its outcome was not seen, so that the stored token may be dead."""
    FAILING = "failing"
    """Segment refused it, or refused to renew it, even when asked again."""


def place(install_id: str) -> Place:
    """Where an install's access token is bound to."""
    return Place("install_tokens", "access_token_ciphertext", install_id)


async def get(session: AsyncSession, install_id: str) -> InstallToken | None:
    """Return the stored row, the token in it still encrypted."""
    return await session.get(InstallToken, install_id)


async def save(
    session: AsyncSession,
    keys: EncryptionKeys,
    install_id: str,
    access_token: str,
    *,
    expires_at: datetime,
    now: datetime,
) -> None:
    """Store the token of a code exchange over any earlier one; a refresh under way can no longer store its result."""
    found = await session.get(InstallToken, install_id, with_for_update=True)
    if found is None:
        found = InstallToken(install_id=install_id, expires_at=expires_at, refreshed_at=now, generation=0)
    found.access_token_ciphertext = keys.encrypt(access_token, place(install_id))
    found.expires_at = expires_at
    found.refreshed_at = now
    found.generation += 1
    found.health, found.failures, found.retry_at = TokenHealth.OK, 0, None
    found.lease_id = found.leased_until = None
    session.add(found)


async def forget(session: AsyncSession, install_id: str) -> None:
    """Erase the token; a refresh under way can no longer store its result."""
    await session.exec(
        update(InstallToken)
        .where(col(InstallToken.install_id) == install_id)
        .values(
            access_token_ciphertext=None,
            generation=col(InstallToken.generation) + 1,
            lease_id=None,
            leased_until=None,
        )
    )


async def note_refused(session: AsyncSession, install_id: str, *, failures: int, retry_at: datetime) -> None:
    """Record that Segment refused a token that was just renewed."""
    await session.exec(
        update(InstallToken)
        .where(col(InstallToken.install_id) == install_id)
        .values(health=TokenHealth.FAILING, failures=failures, retry_at=retry_at)
    )


async def note_accepted(session: AsyncSession, install_id: str) -> None:
    """Record that Segment took the token: what failed before is over."""
    await session.exec(
        update(InstallToken)
        .where(col(InstallToken.install_id) == install_id, col(InstallToken.health) == TokenHealth.FAILING)
        .values(health=TokenHealth.OK, failures=0, retry_at=None)
    )


async def outdate(session: AsyncSession, install_id: str, *, now: datetime) -> None:
    """Let the next use refresh the token, whatever is known about it."""
    await session.exec(
        update(InstallToken).where(col(InstallToken.install_id) == install_id).values(expires_at=now, retry_at=None)
    )
