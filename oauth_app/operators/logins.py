"""A login: to the identity provider and back, bound to one browser, finished once.

The PKCE verifier and the nonce are made from the state with a secret of the service, so neither is stored anywhere.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from datetime import timedelta

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import operator_logins
from enable_with_segment.db.control.flow_states import digest
from enable_with_segment.db.database import Database
from enable_with_segment.db.signer import Signer
from enable_with_segment.oauth_app.operators.identity_provider import IdentityProvider, IdTokenRefused
from enable_with_segment.oauth_app.operators.roles import AccessLists, Operator

logger = logging.getLogger(__name__)

LIFETIME = timedelta(minutes=10)
_MOST_OPEN = 1_000
_LONGEST_VALUE = 4096


class LoginRefused(Exception):
    """Nobody was signed in. ``status`` is for the answer; the text is for the person."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class LoginStarted:
    """Send the browser to ``url`` and give it the cookie; both are secrets of this one login."""

    url: str = field(repr=False)
    cookie_name: str
    cookie_value: str = field(repr=False)


def cookie_name(state: str) -> str:
    """The name of a login's own cookie, so that two tabs don't take each other's."""
    return "operator_login_" + digest(state)[:16]


class Logins:
    """Starts and finishes logins."""

    def __init__(
        self,
        database: Database,
        provider: IdentityProvider,
        access: AccessLists,
        *,
        secret: bytes,
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._provider = provider
        self._access = access
        self._nonces, self._verifiers = Signer(secret, "nonce"), Signer(secret, "verifier")
        self._clock = clock

    async def start(self, return_to: str) -> LoginStarted:
        """Begin a login.

        Raises:
            LoginRefused: too many are open.
            ProviderUnavailable: the provider does not answer.
        """
        state, cookie = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        url = await self._provider.authorization_url(
            state=state, nonce=self._nonces.sign(state), code_verifier=self._verifiers.sign(state)
        )
        now = self._clock()
        async with self._database.transaction() as session:
            await operator_logins.purge(session, before=now - timedelta(hours=1))
            if await operator_logins.count_open(session, now=now) >= _MOST_OPEN:
                raise LoginRefused(429, "Too many people are signing in right now. Try again in a few minutes.")
            await operator_logins.add(
                session, state=state, cookie=cookie, return_to=return_to, now=now, expires_at=now + LIFETIME
            )
        return LoginStarted(url, cookie_name(state), cookie)

    async def finish(
        self, *, state: str | None, code: str | None, error: str | None, cookie: str | None
    ) -> tuple[Operator, str]:
        """Take the provider's answer; returns who signed in, and where they wanted to go.

        Raises:
            LoginRefused: another browser's login, one that was finished, a refusal, or somebody without access.
            ProviderUnavailable: the provider does not answer.
        """
        if not state or not cookie or max(len(state), len(code or ""), len(cookie)) > _LONGEST_VALUE:
            raise LoginRefused(400, "This sign-in was not started in this browser. Please sign in again.")
        async with self._database.transaction() as session:
            login = await operator_logins.consume(session, state, cookie, now=self._clock())
        if login is None:
            raise LoginRefused(400, "This sign-in was finished already, or took too long. Please sign in again.")
        if error or not code:
            raise LoginRefused(403, "The identity provider did not sign you in.")
        try:
            claims = await self._provider.claims_of(
                code, nonce=self._nonces.sign(state), code_verifier=self._verifiers.sign(state)
            )
        except IdTokenRefused as refused:
            logger.warning("an operator's login was refused: %s", refused)
            raise LoginRefused(403, "The identity provider's answer could not be verified.") from None
        operator = self._access.operator_of(claims)
        if operator is None:
            logger.warning("somebody who is on no list tried to sign in to the dashboard")
            raise LoginRefused(403, "You are signed in, but not allowed here. Ask to be added to OPERATORS or VIEWERS.")
        return operator, login.return_to
