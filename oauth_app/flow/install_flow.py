"""The install flow: from Segment's answer to an install that is saved and queued for provisioning (contract 2.10).

State and its single use are ours; Authlib builds the URL and exchanges the code. Nothing here knows HTTP requests or
pages: the routes hand in what the browser brought and show what comes out.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import flow_states, installs
from enable_with_segment.db.control.tables import FlowState
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.record import (
    ContinuationUnclear,
    InstallChoice,
    NothingToContinue,
    continue_install,
    may_be_meant,
)
from enable_with_segment.oauth_app.flow.callback_query import CodeReturned, ErrorReturned
from enable_with_segment.oauth_app.flow.code_exchange import CodeExchange
from enable_with_segment.oauth_app.flow.cookies import FlowCookies
from enable_with_segment.oauth_app.flow.failures import FAILURES, FailureReason, reason_for_error
from enable_with_segment.oauth_app.flow.flow_starts import FlowStarts
from enable_with_segment.oauth_app.flow.outcomes import (
    FlowConnected,
    FlowFailed,
    FlowOutcome,
    FlowPending,
    ManualKey,
    note_failure,
)
from enable_with_segment.segment_api.errors import means_install_already_exists
from enable_with_segment.segment_api.identity import IdentityClient

_LONGEST_EXCHANGE = timedelta(minutes=1)
_UNCLEAR = (FailureReason.INSTALL_UNCLEAR.value,)
_BY_HAND = tuple(reason.value for reason, failure in FAILURES.items() if failure.next_step.offers_key)
"""Failures after which the customer may have an API key to paste."""


class InstallFlow:
    """Finishes authorization flows of one component.

    Attributes:
        cookies: recognise the cookies of flows that were started here, or in another process.
        starts: starts them.
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
        self._api_keys = api_keys
        self.cookies = cookies
        self._component = component
        self._clock = clock
        self.starts = FlowStarts(database, encryption, identity, cookies, component=component, pkce=pkce, clock=clock)
        self._exchange = CodeExchange(database, encryption, identity, scope=scope, clock=clock)

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
                repeated = replace(repeated, incident=note_failure(repeated.reason))
            return await self._with_choices(earlier, repeated)
        if signed_in is not None and signed_in != flow.account:
            return await self._failed(flow, FlowFailed(FailureReason.OTHER_ACCOUNT))
        done = await self._exchange.run(flow, returned.code)
        if done is FailureReason.INSTALL_EXISTS_ELSEWHERE:
            return await self._continue_existing(flow)
        if isinstance(done, FailureReason):
            return await self._failed(flow, FlowFailed(done))
        return FlowConnected(done)

    async def refuse(self, returned: ErrorReturned, *, cookie: str | None) -> FlowOutcome:
        """Take an error back from Segment. Without a valid state nothing is changed (contract 2.4)."""
        reason, now = reason_for_error(returned.error, returned.description, returned.hint), self._clock()
        flow = earlier = None
        if returned.state is not None and cookie is not None:
            async with self._database.transaction() as session:
                flow = await flow_states.consume(
                    session, returned.state, cookie, component=self._component, code=None, now=now
                )
                earlier = await flow_states.find(session, returned.state, component=self._component)
        if flow is None:
            if earlier is not None and earlier.consumed_at is not None and flow_states.belongs_to(earlier, cookie):
                return await self._with_choices(earlier, _recorded(earlier, now=now))
            return FlowFailed(reason, incident=note_failure(reason, error=returned.error))
        if means_install_already_exists(returned.error, returned.description, returned.hint):
            return await self._continue_existing(flow, error=returned.error)
        return await self._failed(flow, FlowFailed(reason), error=returned.error)

    async def manual_key(self, state: str, *, cookie: str | None) -> ManualKey | FlowFailed:
        """Mint a key to paste by hand, once, after Segment refused a second install of the workspace (case 16).

        Raises:
            PartnerFunctionFailed: as ``ApiKeys.mint``.
        """
        async with self._database.transaction() as session:
            flow = await flow_states.take_failure(
                session, state, cookie or "", failures=_BY_HAND, becomes=FailureReason.STATE_USED.value
            )
            if flow is None:
                return FlowFailed(FailureReason.STATE_USED)
            minted = await self._api_keys.mint(
                session, account=flow.account, component=flow.component, actor=f"account:{flow.account}"
            )
        return ManualKey(flow.account, minted.api_key, flow.return_to)

    async def choose(self, state: str, install_id: str, *, cookie: str | None) -> FlowOutcome:
        """Go on with the install that the customer says Segment means, of those that the page named."""
        now = self._clock()
        try:
            async with self._database.transaction() as session:
                flow = await flow_states.take_failure(
                    session, state, cookie or "", failures=_UNCLEAR, becomes=FailureReason.STATE_USED.value
                )
                if flow is not None:
                    install = await continue_install(session, flow=flow, lost=False, chosen=install_id, now=now)
                    await flow_states.finish(session, flow.state_hash, now=now, install_id=install.id)
                    return FlowConnected(install.id)
        except NothingToContinue:
            pass  # not one of those that were named
        async with self._database.transaction() as session:
            earlier = await flow_states.find(session, state, component=self._component)
        if earlier is None or not flow_states.belongs_to(earlier, cookie):
            return FlowFailed(FailureReason.STATE_USED)
        return await self._with_choices(earlier, _recorded(earlier, now=now))

    async def _continue_existing(self, flow: FlowState, *, error: str | None = None) -> FlowConnected | FlowFailed:
        """Go on with the stored install when Segment says there is one already (contract 2.8, cases 15 and 16)."""
        now = self._clock()
        lost = False
        try:
            async with self._database.transaction() as session:
                lost = await flow_states.has_install_without_token(
                    session, account=flow.account, component=flow.component, besides=flow.state_hash
                )
                install = await continue_install(session, flow=flow, lost=lost, now=now)
                await flow_states.finish(session, flow.state_hash, now=now, install_id=install.id)
        except ContinuationUnclear as unclear:
            failed = FlowFailed(FailureReason.INSTALL_UNCLEAR, choices=unclear.choices)
        except NothingToContinue:
            reason = FailureReason.INSTALL_WITHOUT_TOKEN if lost else FailureReason.INSTALL_EXISTS_ELSEWHERE
            failed = FlowFailed(reason)
        else:
            return FlowConnected(install.id)
        return await self._failed(flow, failed, error=error)

    async def _failed(self, flow: FlowState, failed: FlowFailed, *, error: str | None = None) -> FlowFailed:
        async with self._database.transaction() as session:
            await flow_states.finish(session, flow.state_hash, now=self._clock(), failure=failed.reason.value)
        incident = note_failure(failed.reason, account=flow.account, error=error)
        return replace(failed, return_to=flow.return_to, incident=incident)

    async def _with_choices(self, flow: FlowState | None, failed: FlowOutcome) -> FlowOutcome:
        if flow is None or not isinstance(failed, FlowFailed) or failed.reason is not FailureReason.INSTALL_UNCLEAR:
            return failed
        async with self._database.transaction() as session:
            stored = await installs.lock_of_account(session, account=flow.account, component=flow.component)
            found = [install for install in may_be_meant(stored) if flow.reconnects in {None, install.id}]
            return replace(failed, choices=tuple(map(InstallChoice.of, found)))


def _repeated(earlier: FlowState | None, returned: CodeReturned, cookie: str | None, *, now: datetime) -> FlowOutcome:
    """Return why a flow could not be consumed; the reload of a finished callback gets its first answer (case 19)."""
    if earlier is None:
        return FlowFailed(FailureReason.STATE_UNKNOWN)
    if not flow_states.belongs_to(earlier, cookie):
        return FlowFailed(FailureReason.STATE_OF_ANOTHER_BROWSER)
    if earlier.consumed_at is None and earlier.expires_at <= now:
        return FlowFailed(FailureReason.STATE_EXPIRED, earlier.return_to)
    if earlier.code_hash != flow_states.digest(returned.code):
        return FlowFailed(FailureReason.STATE_USED, earlier.return_to)
    return _recorded(earlier, now=now)


def _recorded(flow: FlowState, *, now: datetime) -> FlowOutcome:
    """Return what a consumed flow came to."""
    if flow.install_id is not None:
        return FlowConnected(flow.install_id)
    if flow.failure is not None:
        return FlowFailed(FailureReason(flow.failure), flow.return_to)
    if flow.consumed_at is not None and now - flow.consumed_at > _LONGEST_EXCHANGE:
        # The process that consumed it died on the way.
        died = FailureReason.EXCHANGE_LOST if flow.code_hash else FailureReason.STATE_USED
        return FlowFailed(died, flow.return_to)
    return FlowPending()
