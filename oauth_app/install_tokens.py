"""Install tokens: read, and refreshed when they are about to expire or were refused (contract 2.7).

A refresh ends the previous token at once, so within a process an install never has two refreshes on their way.
Between processes the newer generation in the store wins; whoever then holds a dead token gets a 401, asks here
again with ``rejected``, and is given the live one.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from sqlmodel.ext.asyncio.session import AsyncSession

from db.clock import Clock, utc_now
from db.control import audit, install_tokens, installs
from db.control.tables import InstallStatus
from db.database import Database
from db.encryption import EncryptionKeys
from segment_api.errors import ConfigApiError, NotFound
from segment_api.grants import RefreshedToken
from segment_api.identity import IdentityClient
from subscriptions.provisioning_access import AccessLost
from subscriptions.provisioning_reasons import EXPLANATIONS, Reason, explain

logger = logging.getLogger(__name__)

REFRESH_WHEN_LEFT = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class StoredToken:
    """An install's token as stored. ``generation`` fences the write of its successor."""

    access_token: str
    expires_at: datetime
    generation: int

    def __repr__(self) -> str:
        return f"StoredToken(generation={self.generation}, expires_at={self.expires_at.isoformat()})"


class InstallTokens:
    """Implements ``subscriptions.provisioning_access.AccessTokens``."""

    def __init__(
        self, database: Database, encryption: EncryptionKeys, identity: IdentityClient, clock: Clock = utc_now
    ) -> None:
        self._database = database
        self._encryption = encryption
        self._identity = identity
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def access_token(self, install_id: str, *, rejected: str | None = None) -> str:
        """Return a token with at least a minute left, refreshed if the stored one has less or was ``rejected``.

        Raises:
            AccessLost: Segment refused to refresh; the install is marked.
            SegmentUnavailable: not now; includes ``RateLimited``.
            InvalidAnswer: the answer holds no token.
            KeyError: no such install.
        """
        async with self._locks.setdefault(install_id, asyncio.Lock()):
            stored = await self._stored(install_id)
            if stored is not None and not should_refresh(stored, now=self._clock(), rejected=rejected):
                return stored.access_token
            return await self._refresh(install_id, stored)

    async def refresh(self, install_id: str) -> None:
        """Refresh now, however much time the stored token has left.

        Raises:
            AccessLost, SegmentUnavailable, InvalidAnswer, KeyError: as :meth:`access_token`.
        """
        async with self._locks.setdefault(install_id, asyncio.Lock()):
            await self._refresh(install_id, await self._stored(install_id))

    async def _stored(self, install_id: str) -> StoredToken | None:
        async with self._database.transaction() as session:
            row = await install_tokens.get(session, install_id)
            if row is None:
                return None
            await self._audit(session, "install_token.use", install_id)
            clear = self._encryption.decrypt(row.access_token_ciphertext, install_tokens.place(install_id))
        return StoredToken(clear, row.expires_at, row.generation)

    async def _refresh(self, install_id: str, stored: StoredToken | None) -> str:
        async with self._database.transaction() as session:
            install = await installs.get(session, install_id)
        if install is None:
            raise KeyError(install_id)
        asked_at = self._clock()
        try:
            refreshed = await self._identity.refresh(install.install_name)
        except ConfigApiError as refused:
            raise await self._lose(install_id, refused) from refused
        if await self._save(install_id, refreshed, stored, asked_at=asked_at):
            return refreshed.access_token
        newer = await self._stored(install_id)
        return refreshed.access_token if newer is None else newer.access_token

    async def _save(
        self, install_id: str, refreshed: RefreshedToken, stored: StoredToken | None, *, asked_at: datetime
    ) -> bool:
        """Store the new token over the old one; the names in the answer are not looked at (case 36)."""
        expires_at = asked_at + timedelta(seconds=refreshed.expires_in)
        async with self._database.transaction() as session:
            await self._audit(session, "install_token.refresh", install_id)
            if stored is None:
                await install_tokens.save(
                    session,
                    self._encryption,
                    install_id,
                    refreshed.access_token,
                    expires_at=expires_at,
                    now=self._clock(),
                )
                return True
            return await install_tokens.replace(
                session,
                self._encryption,
                install_id,
                refreshed.access_token,
                generation=stored.generation,
                expires_at=expires_at,
                now=self._clock(),
            )

    async def _lose(self, install_id: str, refused: ConfigApiError) -> AccessLost:
        """Mark the install as one that Segment gives no tokens for (case 40)."""
        reason = reason_for_refusal(refused)
        if EXPLANATIONS[reason].alarm:
            logger.error(
                "Segment refused to refresh the token of %s (%s); check SEGMENT_CLIENT_SECRET", install_id, refused
            )
        else:
            logger.warning("Segment no longer knows the install %s", install_id)
        status, sentence = explain(reason)
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            if install is not None and install.status is not InstallStatus.DISCONNECTED:
                await installs.set_status(
                    session, install_id, status, now=self._clock(), reason=reason.value, detail=sentence
                )
            if reason is Reason.INSTALL_REMOVED:
                await install_tokens.forget(session, install_id)
            await self._audit(session, "install_token.refused", install_id)
        return AccessLost(install_id, reason)

    async def _audit(self, session: AsyncSession, action: str, install_id: str) -> None:
        await audit.add(session, actor="service", action=action, subject=install_id, now=self._clock())


def should_refresh(stored: StoredToken, *, now: datetime, rejected: str | None) -> bool:
    """Tell whether a stored token is not worth using: under a minute left, or the very one that was refused."""
    return stored.expires_at - now < REFRESH_WHEN_LEFT or stored.access_token == rejected


def reason_for_refusal(refused: ConfigApiError) -> Reason:
    """Tell a removed install (404) from anything else that is refused, such as a wrong client secret (401)."""
    return Reason.INSTALL_REMOVED if isinstance(refused, NotFound) else Reason.REFRESH_REFUSED
