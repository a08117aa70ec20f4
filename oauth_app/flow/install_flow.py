"""The install flow: from a confirmed account to an install that is saved and queued for provisioning (contract 2.10).

State and its single use are ours; Authlib builds the URL and exchanges the code. Nothing here knows HTTP requests or
pages: the routes hand in what the browser brought and show what comes out.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import connect_links, flow_states, installs
from enable_with_segment.db.control.tables import FlowState
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys, Place
from enable_with_segment.db.identifiers import check_account, incident_id
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.record import (
    ContinuationUnclear,
    InstallOfAnotherAccount,
    NothingToContinue,
    ReconnectedElsewhere,
    continue_install,
    save_install,
)
from enable_with_segment.oauth_app.flow.callback_query import CodeReturned, ErrorReturned
from enable_with_segment.oauth_app.flow.code_exchange import exchange
from enable_with_segment.oauth_app.flow.cookies import FlowCookies, cookie_name
from enable_with_segment.oauth_app.flow.failures import FAILURES, FailureReason, reason_for_error
from enable_with_segment.segment_api.errors import means_install_already_exists
from enable_with_segment.segment_api.identity import IdentityClient

logger = logging.getLogger(__name__)

FLOW_LIFETIME = timedelta(minutes=10)
_LONGEST_EXCHANGE = timedelta(minutes=1)
_MOST_OPEN_FLOWS = 10_000


@dataclass(frozen=True, slots=True)
class FlowStarted:
    """Send the browser to ``url`` and give it the cookie; both are secrets of this one flow."""

    url: str = field(repr=False)
    cookie_name: str
    cookie_value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FlowConnected:
    """The install is saved; its status page shows how provisioning goes on."""

    install_id: str


@dataclass(frozen=True, slots=True)
class FlowPending:
    """The same callback is being worked on by an earlier request; ask again in a moment."""


@dataclass(frozen=True, slots=True)
class FlowFailed:
    """The flow ended without a connection. ``incident`` names the log line; ``return_to`` is the partner's page."""

    reason: FailureReason
    return_to: str | None = None
    incident: str | None = None


@dataclass(frozen=True, slots=True)
class ManualKey:
    """An API key to paste into Segment by hand; shown once."""

    account: str
    api_key: str = field(repr=False)
    return_to: str | None


FlowOutcome: TypeAlias = FlowConnected | FlowPending | FlowFailed


class InstallFlow:
    """Starts and finishes authorization flows of one component.

    Attributes:
        cookies: recognise the cookies of flows that were started here, or in another process.
    """

    def __init__(
        self,
        database: Database,
        encryption: EncryptionKeys,
        identity: IdentityClient,
        api_keys: ApiKeys,
        cookies: FlowCookies,
        *,
        component: str,
        scope: str,
        pkce: bool = True,
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._encryption = encryption
        self._identity = identity
        self._api_keys = api_keys
        self.cookies = cookies
        self._component = component
        self._scope = scope
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
        async with self._database.transaction() as session:
            refused = await self._refusal(session, account, reconnects=reconnects, now=now)
            if refused is not None:
                return FlowFailed(refused, return_to)
            return await self._begin(
                session, account, return_to=return_to, settings=settings or {}, reconnects=reconnects, now=now
            )

    async def start_by_link(self, token: str) -> FlowStarted | FlowFailed:
        """Begin the flow that a connect link stands for, and use the link up; of several simultaneous calls one does.

        When no flow can begin now, the link stays usable.
        """
        now = self._clock()
        async with self._database.transaction() as session:
            link = await connect_links.find_usable(session, token, component=self._component, now=now)
            if link is None:
                return FlowFailed(FailureReason.LINK_UNUSABLE)
            refused = await self._refusal(session, link.account, reconnects=link.reconnects, now=now)
            if refused is not None:
                return FlowFailed(refused, link.return_to)
            if await connect_links.use(session, token, component=self._component, now=now) is None:
                return FlowFailed(FailureReason.LINK_UNUSABLE)
            return await self._begin(
                session,
                link.account,
                return_to=link.return_to,
                settings=link.settings,
                reconnects=link.reconnects,
                now=now,
            )

    async def _refusal(
        self, session: AsyncSession, account: str, *, reconnects: str | None, now: datetime
    ) -> FailureReason | None:
        """Tell why no flow can begin, if so; outdated flows are deleted on the way."""
        if reconnects is not None:
            install = await installs.get(session, reconnects)
            if install is None or (install.account, install.component) != (account, self._component):
                return FailureReason.OTHER_ACCOUNT
        await flow_states.purge(session, before=now - timedelta(days=1))
        if await flow_states.count_open(session, now=now) >= _MOST_OPEN_FLOWS:
            return FailureReason.TOO_MANY_FLOWS
        return None

    async def _begin(
        self,
        session: AsyncSession,
        account: str,
        *,
        return_to: str | None,
        settings: dict[str, Any],
        reconnects: str | None,
        now: datetime,
    ) -> FlowStarted:
        state = secrets.token_urlsafe(32)
        cookie = self.cookies.make(state, secrets.token_urlsafe(32))
        verifier = secrets.token_urlsafe(48) if self._pkce else None
        state_hash = flow_states.digest(state)
        await flow_states.add(
            session,
            FlowState(
                state_hash=state_hash,
                cookie_hash=flow_states.digest(cookie),
                account=account,
                component=self._component,
                return_to=return_to,
                settings=settings,
                reconnects=reconnects,
                code_verifier_ciphertext=None
                if verifier is None
                else self._encryption.encrypt(verifier, _verifier_place(state_hash)),
                created_at=now,
                expires_at=now + FLOW_LIFETIME,
            ),
        )
        url = self._identity.authorization_url(state=state, code_verifier=verifier)
        return FlowStarted(url, cookie_name(state), cookie)

    async def finish(self, returned: CodeReturned, *, cookie: str | None, signed_in: str | None = None) -> FlowOutcome:
        """Take a code back from Segment: consume the flow once, exchange the code once, save the install.

        Args:
            signed_in: the account that is signed in to the partner's product in this browser, if that is known. When
                it is another one than the flow's, the code is not even exchanged (OA-21).
        """
        now = self._clock()
        async with self._database.transaction() as session:
            flow = await flow_states.consume(
                session, returned.state, cookie or "", component=self._component, code=returned.code, now=now
            )
            earlier = await flow_states.find(session, returned.state, component=self._component)
        if flow is None:
            repeated = _repeated(earlier, returned, cookie, now=now)
            if isinstance(repeated, FlowFailed):
                return replace(repeated, incident=note_failure(repeated.reason))
            return repeated
        if signed_in is not None and signed_in != flow.account:
            outcome: FlowOutcome = FlowFailed(FailureReason.OTHER_ACCOUNT)
        else:
            outcome = await self._complete(flow, returned)
        if isinstance(outcome, FlowFailed):
            outcome = await self._failed(returned.state, flow, outcome)
        return outcome

    async def refuse(self, returned: ErrorReturned, *, cookie: str | None) -> FlowOutcome:
        """Take an error back from Segment. Without a valid state nothing is changed (contract 2.4)."""
        reason = reason_for_error(returned.error, returned.description, returned.hint)
        flow: FlowState | None = None
        if returned.state is not None and cookie is not None:
            async with self._database.transaction() as session:
                flow = await flow_states.consume(
                    session, returned.state, cookie, component=self._component, code=None, now=self._clock()
                )
        if flow is None or returned.state is None:
            return FlowFailed(reason, incident=note_failure(reason, error=returned.error))
        if means_install_already_exists(returned.error, returned.description, returned.hint):
            outcome = await self._continue_existing(flow, returned.state)
        else:
            outcome = FlowFailed(reason)
        if isinstance(outcome, FlowFailed):
            outcome = await self._failed(returned.state, flow, outcome, error=returned.error)
        return outcome

    async def manual_key(self, state: str, *, cookie: str | None) -> ManualKey | FlowFailed:
        """Mint a key to paste by hand, once, after Segment refused a second install of the workspace (case 16)."""
        async with self._database.transaction() as session:
            flow = await flow_states.exchange_failure(
                session,
                state,
                cookie or "",
                failure=FailureReason.INSTALL_EXISTS_ELSEWHERE.value,
                becomes=FailureReason.STATE_USED.value,
            )
            if flow is None:
                return FlowFailed(FailureReason.STATE_USED)
            minted = await self._api_keys.mint(
                session, account=flow.account, component=flow.component, actor=f"account:{flow.account}"
            )
        return ManualKey(flow.account, minted.api_key, flow.return_to)

    async def _complete(self, flow: FlowState, returned: CodeReturned) -> FlowOutcome:
        verifier = None
        if flow.code_verifier_ciphertext is not None:
            verifier = self._encryption.decrypt(flow.code_verifier_ciphertext, _verifier_place(flow.state_hash))
        grant = await exchange(self._identity, returned.code, code_verifier=verifier)
        if grant is FailureReason.INSTALL_EXISTS_ELSEWHERE:
            return await self._continue_existing(flow, returned.state)
        if isinstance(grant, FailureReason):
            return FlowFailed(grant)
        if grant.scope != self._scope:
            logger.warning("the granted scope differs from %s", self._scope)
        now = self._clock()
        try:
            async with self._database.transaction() as session:
                install = await save_install(session, self._encryption, grant, flow=flow, scope=self._scope, now=now)
                await flow_states.finish(session, returned.state, now=now, install_id=install.id)
        except InstallOfAnotherAccount:
            return FlowFailed(FailureReason.INSTALL_OF_ANOTHER_ACCOUNT)
        except ReconnectedElsewhere:
            # The token is dropped here: what was granted by mistake is never used.
            logger.warning("a reconnect of %s came back with %s", flow.reconnects, grant.workspace_name)
            return FlowFailed(FailureReason.RECONNECTED_ELSEWHERE)
        return FlowConnected(install.id)

    async def _continue_existing(self, flow: FlowState, state: str) -> FlowOutcome:
        """Go on with the stored install when Segment says there is one already (contract 2.8, cases 15 and 16)."""
        now = self._clock()
        try:
            async with self._database.transaction() as session:
                install = await continue_install(session, flow=flow, now=now)
                await flow_states.finish(session, state, now=now, install_id=install.id)
        except NothingToContinue:
            return FlowFailed(FailureReason.INSTALL_EXISTS_ELSEWHERE)
        except ContinuationUnclear:
            return FlowFailed(FailureReason.INSTALL_UNCLEAR)
        return FlowConnected(install.id)

    async def _failed(self, state: str, flow: FlowState, failed: FlowFailed, *, error: str | None = None) -> FlowFailed:
        async with self._database.transaction() as session:
            await flow_states.finish(session, state, now=self._clock(), failure=failed.reason.value)
        return FlowFailed(failed.reason, flow.return_to, note_failure(failed.reason, account=flow.account, error=error))


def _repeated(earlier: FlowState | None, returned: CodeReturned, cookie: str | None, *, now: datetime) -> FlowOutcome:
    """Say why a flow could not be consumed; the reload of a finished callback gets its first answer (cases 7, 19)."""
    if earlier is None:
        return FlowFailed(FailureReason.STATE_UNKNOWN)
    if cookie is None or flow_states.digest(cookie) != earlier.cookie_hash:
        return FlowFailed(FailureReason.STATE_OF_ANOTHER_BROWSER)
    if earlier.consumed_at is None and earlier.expires_at <= now:
        return FlowFailed(FailureReason.STATE_EXPIRED, earlier.return_to)
    if earlier.code_hash != flow_states.digest(returned.code):
        return FlowFailed(FailureReason.STATE_USED, earlier.return_to)
    if earlier.install_id is not None:
        return FlowConnected(earlier.install_id)
    if earlier.failure is not None:
        return FlowFailed(FailureReason(earlier.failure), earlier.return_to)
    if earlier.consumed_at is not None and now - earlier.consumed_at > _LONGEST_EXCHANGE:
        # The process that consumed it died on the way; the code is spent.
        return FlowFailed(FailureReason.CODE_REFUSED, earlier.return_to)
    return FlowPending()


def _verifier_place(state_hash: str) -> Place:
    return Place("flow_states", "code_verifier_ciphertext", state_hash)


def note_failure(reason: FailureReason, **facts: str | None) -> str:
    """Write the operator's line about a failed flow; returns the incident's id, which the page shows too."""
    incident = incident_id()
    level = logging.ERROR if FAILURES[reason].alarm else logging.WARNING
    told = ", ".join(f"{name}={value[:100]!r}" for name, value in facts.items() if value)
    logger.log(level, "install flow failed: %s (incident %s%s)", reason.value, incident, f", {told}" if told else "")
    return incident
