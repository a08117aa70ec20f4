"""Install tokens: one per install, encrypted, replaced by compare-and-set on their generation."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from db.control.tables import InstallToken
from db.encryption import EncryptionKeys, Place


def place(install_id: str) -> Place:
    """Where an install's access token is bound to."""
    return Place("install_tokens", "access_token_ciphertext", install_id)


async def save(
    session: AsyncSession,
    keys: EncryptionKeys,
    install_id: str,
    access_token: str,
    *,
    expires_at: datetime,
    now: datetime,
) -> None:
    """Store the token of a code exchange, over any earlier one (contract 2.7: the earlier one is dead)."""
    ciphertext = keys.encrypt(access_token, place(install_id))
    found = await session.get(InstallToken, install_id)
    if found is None:
        found = InstallToken(
            install_id=install_id, access_token_ciphertext=ciphertext, expires_at=expires_at, refreshed_at=now
        )
    else:
        found.access_token_ciphertext = ciphertext
        found.expires_at = expires_at
        found.refreshed_at = now
        found.generation += 1
    session.add(found)


async def get(session: AsyncSession, install_id: str) -> InstallToken | None:
    """Return the stored token row, still encrypted."""
    return await session.get(InstallToken, install_id)


async def replace(
    session: AsyncSession,
    keys: EncryptionKeys,
    install_id: str,
    access_token: str,
    *,
    generation: int,
    expires_at: datetime,
    now: datetime,
) -> bool:
    """Store a refreshed token if nobody else did meanwhile; tells whether it was stored."""
    statement = (
        update(InstallToken)
        .where(col(InstallToken.install_id) == install_id, col(InstallToken.generation) == generation)
        .values(
            access_token_ciphertext=keys.encrypt(access_token, place(install_id)),
            expires_at=expires_at,
            refreshed_at=now,
            generation=generation + 1,
        )
        .returning(col(InstallToken.generation))
    )
    return (await session.exec(statement)).scalar_one_or_none() is not None


async def forget(session: AsyncSession, install_id: str) -> None:
    """Delete the token, after a disconnect."""
    found = await session.get(InstallToken, install_id)
    if found is not None:
        await session.delete(found)
