"""API keys: minted for a customer's account, replayed by Segment on every delivery, recognised by keyed hash.

Their form is that of ``installs.api_key_format``, unless the partner's own function makes them. The key of a
signed Webhooks destination (contract 5.12) has a signing secret beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeAlias

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.components.partner_call import PartnerThreads
from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import accounts, api_keys, audit
from enable_with_segment.db.control.tables import ApiKey
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.identifiers import new_id
from enable_with_segment.installs.api_key_format import (
    PREFIX,
    SIGNED_PREFIX,
    ApiKeyInvalid,
    check_foreign_key,
    new_key,
    new_secret,
)
from enable_with_segment.installs.key_cache import KeyCache, KeyHolder, KeyLookup

ApiKeyHook: TypeAlias = Callable[[str, str], str]
"""A partner's function ``(account, component) -> key``; called in a thread, within a transaction that waits for it."""

_HOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class MintedKey:
    """A new key. ``api_key`` and ``signing_secret`` are the only clear copies there will be outside ciphertexts."""

    id: str
    api_key: str
    signing_secret: str | None = None

    def __repr__(self) -> str:
        return f"MintedKey(id={self.id!r}, api_key='{self.api_key[:4]}…')"


class ApiKeys:
    """Mints, recognises, reveals, rotates and revokes API keys.

    Args:
        lookup_secret: 32 bytes that key the hash (``db.control.service_secrets``).
        hook: makes the keys in place of ours.
    """

    def __init__(
        self,
        database: Database,
        encryption: EncryptionKeys,
        lookup_secret: bytes,
        clock: Clock = utc_now,
        *,
        hook: ApiKeyHook | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encryption = encryption
        self._clock = clock
        self._hook = hook
        self._hook_threads = PartnerThreads("API_KEY_HOOK", seconds=_HOOK_SECONDS)
        self.key_cache = KeyCache(database, lookup_secret, clock, monotonic=monotonic)

    def now(self) -> datetime:
        """Return the instant the keys are judged by."""
        return self._clock()

    async def mint(
        self,
        session: AsyncSession,
        *,
        account: str,
        component: str,
        install_id: str | None = None,
        signed: bool = False,
        actor: str = "service",
    ) -> MintedKey:
        """Make a key for an account (added if it is new), inside the caller's transaction.

        Args:
            signed: make a signing secret as well, for a Webhooks destination that signs (contract 5.12).

        Raises:
            PartnerFunctionFailed: the partner's function raised, or took longer than two seconds; ``ApiKeyInvalid``
                when it returned no usable key, or one that is in use.
            AccountInvalid: no account can have this identifier.
        """
        now = self._clock()
        await accounts.ensure(session, account, now=now)
        clear = await self._new_key(session, account, component, signed=signed)
        signing_secret = new_secret() if signed else None
        key_id = new_id("key")
        await api_keys.add(
            session,
            ApiKey(
                id=key_id,
                key_hash=self.key_cache.hash(clear),
                key_ciphertext=self._encryption.encrypt(clear, api_keys.place(key_id)),
                signing_secret_ciphertext=None
                if signing_secret is None
                else self._encryption.encrypt(signing_secret, api_keys.signing_secret_place(key_id)),
                last_four=clear[-4:],
                account=account,
                component=component,
                install_id=install_id,
                created_at=now,
            ),
        )
        await audit.add(session, actor=actor, action="api_key.mint", subject=key_id, now=now)
        return MintedKey(key_id, clear, signing_secret)

    async def _new_key(self, session: AsyncSession, account: str, component: str, *, signed: bool) -> str:
        if signed:  # it stands in a path, and its prefix tells the endpoint which door it is for
            return new_key(SIGNED_PREFIX)
        if self._hook is None:
            return new_key(PREFIX)
        key = check_foreign_key(await self._hook_threads.call(partial(self._hook, account, component)))
        if await api_keys.find_by_hash(session, self.key_cache.hash(key)) is not None:
            raise ApiKeyInvalid("returned a key that it had returned before")
        return key

    async def look_up(self, key: str) -> KeyLookup:
        """Tell whom a key belongs to; see :class:`KeyCache`."""
        return await self.key_cache.look_up(key)

    async def close(self) -> None:
        """Wait for queries that are still on their way, before the store is closed."""
        await self.key_cache.close()

    def signing_secret(self, holder: KeyHolder) -> str | None:
        """Decrypt what deliveries with a key are signed with; ``None`` for a key without a signing secret.

        Raises:
            EncryptionError: ``ENCRYPTION_KEYS`` no longer opens it.
        """
        if holder.signing_secret_ciphertext is None:
            return None
        return self._encryption.decrypt(holder.signing_secret_ciphertext, api_keys.signing_secret_place(holder.key_id))

    async def reveal(self, session: AsyncSession, key_id: str, *, purpose: str) -> str:
        """Decrypt a key in order to push it to Segment or compare it with what Segment holds; leaves an audit entry.

        Raises:
            KeyError: no such key, or it was replaced or revoked.
            EncryptionError: ``ENCRYPTION_KEYS`` no longer opens it.
        """
        key = await api_keys.get(session, key_id)
        if key is None or key.key_ciphertext is None:
            raise KeyError(key_id)
        await audit.add(
            session,
            actor="service",
            action="api_key.reveal",
            subject=key_id,
            now=self._clock(),
            detail={"purpose": purpose},
        )
        return self._encryption.decrypt(key.key_ciphertext, api_keys.place(key_id))

    async def expire(self, session: AsyncSession, key_id: str, *, at: datetime, actor: str) -> None:
        """Let a key that was replaced work until ``at`` (contract case 59: an overlap of at least 24 hours).

        Its ciphertext is erased now: the hash is enough to recognise it.
        """
        await api_keys.expire(session, key_id, at=at)
        await audit.add(session, actor=actor, action="api_key.expire", subject=key_id, now=self._clock())
        self.key_cache.forget()

    async def revoke(self, session: AsyncSession, key_id: str, *, actor: str) -> bool:
        """Revoke a key and erase it; other processes notice within a second. Tells whether it was usable before."""
        now = self._clock()
        revoked = await api_keys.revoke(session, key_id, now=now)
        if revoked:
            await audit.add(session, actor=actor, action="api_key.revoke", subject=key_id, now=now)
        self.key_cache.forget()
        return revoked

    async def revoke_of_install(self, session: AsyncSession, install_id: str, *, actor: str) -> None:
        """Revoke and erase every key of an install."""
        now = self._clock()
        await api_keys.revoke_of_install(session, install_id, now=now)
        await audit.add(session, actor=actor, action="api_key.revoke_of_install", subject=install_id, now=now)
        self.key_cache.forget()
