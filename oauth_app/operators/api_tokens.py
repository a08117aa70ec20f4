"""API tokens: what a partner's backend sends as ``Authorization: Bearer``; each may do what its scopes say.

A token is ``ewst_`` and 40 letters and digits (more than 230 random bits): a fixed prefix that secret scanners can look
for, and told apart from the API keys of deliveries at a glance.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import api_tokens, audit
from enable_with_segment.db.control.tables import ApiToken
from enable_with_segment.db.database import Database
from enable_with_segment.db.identifiers import new_id

PREFIX = "ewst_"
_ALPHABET = string.ascii_letters + string.digits


class Scope(StrEnum):
    """What a token may do."""

    CONNECT_LINKS_WRITE = "connect_links:write"
    INSTALLS_READ = "installs:read"
    EVENTS_READ = "events:read"
    API_KEYS_WRITE = "api_keys:write"


@dataclass(frozen=True, slots=True)
class MintedToken:
    """A new token. ``token`` is the only clear copy there will ever be."""

    id: str
    token: str

    def __repr__(self) -> str:
        return f"MintedToken(id={self.id!r}, token='{PREFIX}…')"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls the API."""

    token_id: str
    scopes: frozenset[str]

    @property
    def actor(self) -> str:
        """The caller's name in the audit."""
        return f"api_token:{self.token_id}"


class ApiTokens:
    """Mints, recognises and revokes API tokens."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def mint(
        self, name: str, scopes: Collection[Scope], *, lifetime: timedelta | None, actor: str
    ) -> MintedToken:
        """Make a token.

        Args:
            name: what the token is for, in the operator's words.
            lifetime: how long it works; ``None`` for until it is revoked.
        """
        now = self._clock()
        minted = MintedToken(new_id("tok"), PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(40)))
        async with self._database.transaction() as session:
            await api_tokens.add(
                session,
                ApiToken(
                    id=minted.id,
                    token_hash=api_tokens.token_hash(minted.token),
                    name=name,
                    scopes=sorted(scopes),
                    created_at=now,
                    expires_at=None if lifetime is None else now + lifetime,
                ),
            )
            detail = {"name": name, "scopes": sorted(scopes)}
            await audit.add(session, actor=actor, action="api_token.mint", subject=minted.id, now=now, detail=detail)
        return minted

    async def recognise(self, presented: str) -> Caller | None:
        """Tell who presents a token; ``None`` for one that is unknown, revoked or expired.

        The look-up is by hash, so its time says nothing about how much of a guess was right.
        """
        async with self._database.transaction() as session:
            found = await api_tokens.find_usable(session, presented, now=self._clock())
        return None if found is None else Caller(found.id, frozenset(found.scopes))

    async def list_all(self) -> list[ApiToken]:
        """Return every token, the newest first."""
        async with self._database.transaction() as session:
            return await api_tokens.list_all(session)

    async def revoke(self, token_id: str, *, actor: str, reason: str | None = None) -> bool:
        """Revoke a token at once; tells whether it was usable before."""
        now = self._clock()
        async with self._database.transaction() as session:
            revoked = await api_tokens.revoke(session, token_id, now=now)
            if revoked:
                await audit.add(
                    session, actor=actor, action="api_token.revoke", subject=token_id, now=now, reason=reason
                )
        return revoked
