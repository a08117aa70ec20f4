"""API keys: looked up by keyed hash, decrypted only to be pushed to Segment."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from itertools import cycle, islice

import sqlalchemy
from sqlalchemy import or_, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import Account, ApiKey
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import Place


def place(key_id: str) -> Place:
    """Where a key's ciphertext is bound to."""
    return Place("api_keys", "key_ciphertext", key_id)


def signing_secret_place(key_id: str) -> Place:
    """Where the ciphertext of a key's signing secret is bound to."""
    return Place("api_keys", "signing_secret_ciphertext", key_id)


async def add(session: AsyncSession, key: ApiKey) -> None:
    """Store a new key."""
    session.add(key)
    await session.flush()


async def get(session: AsyncSession, key_id: str) -> ApiKey | None:
    """Return one key by our own id."""
    return await session.get(ApiKey, key_id)


async def find_by_hash(session: AsyncSession, key_hash: str) -> ApiKey | None:
    """Return the key of a keyed hash, whatever state it is in."""
    return (await session.exec(select(ApiKey).where(ApiKey.key_hash == key_hash))).first()


async def read_by_hashes(database: Database, key_hashes: Collection[str]) -> dict[str, tuple[ApiKey, Account]]:
    """Return the keys of some keyed hashes, by hash, and their accounts: in the quickest way, for who waits for it."""
    # A statement for each number of hashes would be prepared anew each time; these are few.
    wanted = [*key_hashes, *islice(cycle(key_hashes), _power_of_two(len(key_hashes)) - len(key_hashes))]
    statement = sqlalchemy.select(ApiKey, Account).where(
        col(ApiKey.key_hash).in_(wanted), col(ApiKey.account) == Account.id
    )
    return {key.key_hash: (key, account) for key, account in await database.reads.rows(statement)}


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


async def usable_of_install(session: AsyncSession, install_id: str) -> list[ApiKey]:
    """Return the install's keys that are neither revoked nor on their way out, the newest first.

    More than one means that a rotation is not finished: Segment is not seen yet to hold the newest.
    """
    statement = (
        select(ApiKey)
        .where(
            ApiKey.install_id == install_id,
            col(ApiKey.revoked_at).is_(None),
            col(ApiKey.expires_at).is_(None),
        )
        .order_by(col(ApiKey.created_at).desc())
    )
    return list((await session.exec(statement)).all())


async def current_of_install(session: AsyncSession, install_id: str) -> ApiKey | None:
    """Return the newest of an install's usable keys."""
    return next(iter(await usable_of_install(session, install_id)), None)


async def list_all(session: AsyncSession, *, account: str | None = None, limit: int | None = None) -> list[ApiKey]:
    """Return keys, the newest first."""
    statement = select(ApiKey).order_by(col(ApiKey.created_at).desc()).limit(limit)
    if account is not None:
        statement = statement.where(ApiKey.account == account)
    return list((await session.exec(statement)).all())


async def expire(session: AsyncSession, key_id: str, *, at: datetime) -> None:
    """Let a key work until ``at`` and no longer (the overlap of a rotation), and erase its ciphertext."""
    await session.exec(
        update(ApiKey)
        .where(col(ApiKey.id) == key_id, or_(col(ApiKey.expires_at).is_(None), col(ApiKey.expires_at) > at))
        .values(expires_at=at, key_ciphertext=None)
    )


async def revoke(session: AsyncSession, key_id: str, *, now: datetime) -> bool:
    """Revoke a key at once and erase its ciphertexts; tells whether it was usable before."""
    statement = (
        update(ApiKey)
        .where(col(ApiKey.id) == key_id, col(ApiKey.revoked_at).is_(None))
        .values(revoked_at=now, key_ciphertext=None, signing_secret_ciphertext=None)
        .returning(col(ApiKey.id))
    )
    return (await session.exec(statement)).scalar_one_or_none() is not None


async def revoke_of_install(session: AsyncSession, install_id: str, *, now: datetime) -> None:
    """Revoke every key of an install and erase its ciphertexts."""
    await session.exec(
        update(ApiKey)
        .where(col(ApiKey.install_id) == install_id, col(ApiKey.revoked_at).is_(None))
        .values(revoked_at=now, key_ciphertext=None, signing_secret_ciphertext=None)
    )
