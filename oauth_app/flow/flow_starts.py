"""Starting a flow: from a signed-in account or a connect link to Segment's consent page (contract 2.3, 2.10)."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.clock import Clock
from enable_with_segment.db.control import connect_links, flow_states, installs
from enable_with_segment.db.control.tables import ConnectLink, FlowState
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.identifiers import check_account
from enable_with_segment.oauth_app.flow.code_exchange import verifier_place
from enable_with_segment.oauth_app.flow.cookies import FlowCookies, cookie_name
from enable_with_segment.oauth_app.flow.failures import FailureReason
from enable_with_segment.oauth_app.flow.outcomes import FlowConnected, FlowFailed, FlowStarted
from enable_with_segment.segment_api.identity import IdentityClient

FLOW_LIFETIME = timedelta(minutes=10)
COOKIE_LIFETIME = timedelta(hours=1)
"""Longer than the flow lives: a customer who comes late, or reads the last page for a while, is still recognised."""

_KEPT = timedelta(days=1)
_LOST_KEPT = timedelta(days=90)
_MOST_OPEN_FLOWS = 10_000
_MOST_PRESSES = 20


class _PressedMeanwhile(Exception):
    """Another request used the link up after it was looked at."""


class FlowStarts:
    """Starts authorization flows of one component.

    Args:
        pkce: send a challenge (S256).
    """

    def __init__(
        self,
        database: Database,
        encryption: EncryptionKeys,
        identity: IdentityClient,
        cookies: FlowCookies,
        *,
        component: str,
        pkce: bool,
        clock: Clock,
    ) -> None:
        self._database = database
        self._encryption = encryption
        self._identity = identity
        self._cookies = cookies
        self._component = component
        self._pkce = pkce
        self._clock = clock

    async def start(
        self,
        account: str,
        *,
        return_to: str | None = None,
        settings: dict[str, Any] | None = None,
        reconnects: str | None = None,
    ) -> FlowStarted | FlowFailed:
        """Begin a flow for an account that was confirmed by a partner session or on our page.

        The state has 256 random bits (OA-1) and lives ten minutes; only hashes of it and of the cookie are stored.

        Args:
            reconnects: an install of this account; the flow then ends with that one, or with nothing (OA-20).

        Raises:
            AccountInvalid: no account can have this identifier.
        """
        check_account(account)
        now = self._clock()
        state = secrets.token_urlsafe(32)
        cookie = self._cookies.make(state, secrets.token_urlsafe(32))
        async with self._database.transaction() as session:
            refused = await self._refusal(session, account, reconnects=reconnects, now=now)
            if refused is not None:
                return FlowFailed(refused, return_to)
            flow = self._new_flow(
                state, cookie, account=account, return_to=return_to, settings=settings, reconnects=reconnects, now=now
            )
            await flow_states.add(session, flow)
        return self._started(flow, state, cookie)

    async def look(self, token: str, *, browser: str | None) -> ConnectLink | FlowConnected | None:
        """Return a connect link that this browser may use, without using it up; or the install that came of it.

        A link that was used is shown to nobody but the browser that used it.
        """
        now = self._clock()
        async with self._database.transaction() as session:
            link = await connect_links.find(session, token, component=self._component, now=now)
            if link is None or link.used_at is None:
                return link
            earlier = await self._newest(session, token, browser)
        if earlier is None:
            return None
        return link if earlier[1].install_id is None else FlowConnected(earlier[1].install_id)

    async def start_by_link(
        self, token: str, *, browser: str | None = None
    ) -> FlowStarted | FlowConnected | FlowFailed:
        """Begin the flow that a connect link stands for, and use the link up; of several simultaneous calls one does.

        The browser that used it comes to the same authorization when it presses the button again, and may start anew
        when that one failed or expired, as long as no install came of it. When no flow can begin, the link stays
        usable.

        Args:
            browser: the cookie that the link's page gave to the browser.
        """
        for _ in range(3):
            try:
                return await self._start_by_link(token, browser)
            except (_PressedMeanwhile, IntegrityError):
                continue  # what the other press came to is found now
        return FlowFailed(FailureReason.LINK_UNUSABLE)

    async def _start_by_link(self, token: str, browser: str | None) -> FlowStarted | FlowConnected | FlowFailed:
        now, number = self._clock(), 1
        async with self._database.transaction() as session:
            link = await connect_links.find(session, token, component=self._component, now=now)
            if link is None:
                return FlowFailed(FailureReason.LINK_UNUSABLE)
            if link.used_at is not None:
                earlier = await self._newest(session, token, browser)
                if earlier is None:
                    return FlowFailed(FailureReason.LINK_UNUSABLE)
                number, flow = earlier
                if flow.install_id is not None:
                    return FlowConnected(flow.install_id)
                if flow.consumed_at is None and flow.expires_at > now:
                    return self._started(flow, *self._cookies.of_press(token, browser or "", number))
                number += 1
                if number > _MOST_PRESSES:
                    return FlowFailed(FailureReason.LINK_UNUSABLE)
            refused = await self._refusal(session, link.account, reconnects=link.reconnects, now=now)
            if refused is not None:
                return FlowFailed(refused, link.return_to)
            if number == 1 and await connect_links.use(session, token, component=self._component, now=now) is None:
                raise _PressedMeanwhile
            state, cookie = self._cookies.of_press(token, browser or secrets.token_urlsafe(32), number)
            flow = self._new_flow(
                state,
                cookie,
                account=link.account,
                return_to=link.return_to,
                settings=link.settings,
                reconnects=link.reconnects,
                now=now,
            )
            await flow_states.add(session, flow)
        return self._started(flow, state, cookie)

    async def _newest(self, session: AsyncSession, token: str, browser: str | None) -> tuple[int, FlowState] | None:
        """Return the newest flow that a browser started with a link, and its number."""
        found: tuple[int, FlowState] | None = None
        for number in range(1, _MOST_PRESSES + 1 if browser is not None else 0):
            state, _ = self._cookies.of_press(token, browser or "", number)
            flow = await flow_states.find(session, state, component=self._component)
            if flow is None:
                break
            found = number, flow
        return found

    async def _refusal(
        self, session: AsyncSession, account: str, *, reconnects: str | None, now: datetime
    ) -> FailureReason | None:
        """Return why no flow can begin, if so; outdated flows are deleted on the way."""
        if reconnects is not None:
            install = await installs.get(session, reconnects)
            if install is None or (install.account, install.component) != (account, self._component):
                return FailureReason.OTHER_ACCOUNT
        await flow_states.purge(session, before=now - _KEPT, lost_before=now - _LOST_KEPT)
        if await flow_states.count_open(session, now=now) >= _MOST_OPEN_FLOWS:
            return FailureReason.TOO_MANY_FLOWS
        return None

    def _new_flow(
        self,
        state: str,
        cookie: str,
        *,
        account: str,
        return_to: str | None,
        settings: dict[str, Any] | None,
        reconnects: str | None,
        now: datetime,
    ) -> FlowState:
        verifier = secrets.token_urlsafe(48) if self._pkce else None
        state_hash = flow_states.digest(state)
        return FlowState(
            state_hash=state_hash,
            cookie_hash=flow_states.digest(cookie),
            account=account,
            component=self._component,
            return_to=return_to,
            settings=settings or {},
            reconnects=reconnects,
            code_verifier_ciphertext=None
            if verifier is None
            else self._encryption.encrypt(verifier, verifier_place(state_hash)),
            created_at=now,
            expires_at=now + FLOW_LIFETIME,
        )

    def _started(self, flow: FlowState, state: str, cookie: str) -> FlowStarted:
        verifier = None
        if flow.code_verifier_ciphertext is not None:
            verifier = self._encryption.decrypt(flow.code_verifier_ciphertext, verifier_place(flow.state_hash))
        url = self._identity.authorization_url(state=state, code_verifier=verifier)
        return FlowStarted(url, cookie_name(state), cookie)
