"""Install tokens: one per install, encrypted. A refresh replaces them under a lease (``db.control.token_leases``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import func, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import Install, InstallStatus, InstallToken
from enable_with_segment.db.encryption import EncryptionKeys, Place


class TokenHealth(StrEnum):
    """What is known about a stored token."""

    OK = "ok"
    UNCERTAIN = "uncertain"
    """A refresh was sent and its outcome was not seen, so that the stored token may be dead."""
    FAILING = "failing"
    """Segment refused it, or refused to renew it, even when asked again."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Segment's refusal of an install's token.

    Attributes:
        reason: a word for it; a refusal for another reason begins anew.
        since: the first answer of this kind in a row.
        text: Segment's newest words.
    """

    reason: str
    since: datetime
    text: str

    def values(self) -> dict[str, Any]:
        """Return the columns."""
        return {"refusal": self.reason, "refused_since": self.since, "refusal_text": self.text}


NO_REFUSAL: Mapping[str, None] = dict.fromkeys(("refusal", "refused_since", "refusal_text"))


async def refusals(session: AsyncSession) -> dict[str, Refusal]:
    """Return the refusals of all installs that are not disconnected, by install."""
    statement = (
        select(InstallToken)
        .join(Install, col(Install.id) == col(InstallToken.install_id))
        .where(col(InstallToken.refused_since).is_not(None), col(Install.status) != InstallStatus.DISCONNECTED)
    )
    rows = (await session.exec(statement)).all()
    return {row.install_id: refusal for row in rows if (refusal := refusal_of(row)) is not None}


def refusal_of(token: InstallToken) -> Refusal | None:
    """Return how Segment refuses a stored token, ``None`` while it does not."""
    if token.refused_since is None or token.refusal is None:
        return None
    return Refusal(token.refusal, token.refused_since, token.refusal_text or "")


async def count_live(session: AsyncSession) -> int:
    """Count the installs with a token that are not disconnected."""
    statement = (
        select(func.count())
        .select_from(InstallToken)
        .join(Install, col(Install.id) == col(InstallToken.install_id))
        .where(col(Install.status) != InstallStatus.DISCONNECTED)
    )
    return (await session.exec(statement)).one()


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
    found.refused_since = found.refusal = found.refusal_text = None
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
            **NO_REFUSAL,
        )
    )


async def note_refused(
    session: AsyncSession, install_id: str, refusal: Refusal, *, failures: int, retry_at: datetime
) -> None:
    """Record that Segment refused a token that was just renewed."""
    await session.exec(
        update(InstallToken)
        .where(col(InstallToken.install_id) == install_id)
        .values(health=TokenHealth.FAILING, failures=failures, retry_at=retry_at, **refusal.values())
    )


async def note_accepted(session: AsyncSession, install_id: str) -> None:
    """Record that Segment took the token: what failed before is over."""
    await session.exec(
        update(InstallToken)
        .where(col(InstallToken.install_id) == install_id, col(InstallToken.health) == TokenHealth.FAILING)
        .values(health=TokenHealth.OK, failures=0, retry_at=None, **NO_REFUSAL)
    )


async def clear_refusal(session: AsyncSession, install_id: str) -> None:
    """Forget how Segment refused, so that it takes two new answers to conclude anything."""
    await session.exec(update(InstallToken).where(col(InstallToken.install_id) == install_id).values(**NO_REFUSAL))


async def outdate(session: AsyncSession, install_id: str, *, now: datetime) -> None:
    """Let the next use refresh the token, whatever is known about it."""
    await session.exec(
        update(InstallToken).where(col(InstallToken.install_id) == install_id).values(expires_at=now, retry_at=None)
    )
