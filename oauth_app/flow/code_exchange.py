"""The code exchange: from the code that a callback brought to a saved install (contract 2.5, cases 25-32).

That a code is about to be exchanged is stored before Segment is asked (``flow_states.consume``). So a flow without an
outcome is one whose answer was lost, whatever ended the process, and the account's next attempt can say so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionLeft

from enable_with_segment.db.clock import Clock
from enable_with_segment.db.control import flow_states
from enable_with_segment.db.control.tables import FlowState
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys, Place
from enable_with_segment.installs.record import InstallOfAnotherAccount, ReconnectedElsewhere, save_install
from enable_with_segment.oauth_app.flow.failures import FailureReason
from enable_with_segment.segment_api.errors import (
    InvalidAnswer,
    NotSent,
    SegmentUnavailable,
    TokenRequestRejected,
    means_install_already_exists,
)
from enable_with_segment.segment_api.grants import InstallGrant
from enable_with_segment.segment_api.identity import IdentityClient

logger = logging.getLogger(__name__)

_PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Between attempts to save a grant: Segment gives it only once, so a store that is away for a moment is waited for."""


class CodeExchange:
    """Exchanges codes for install tokens and saves what comes of it.

    Args:
        scope: as it is asked for.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        database: Database,
        encryption: EncryptionKeys,
        identity: IdentityClient,
        *,
        scope: str,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._encryption = encryption
        self._identity = identity
        self._scope = scope
        self._clock = clock
        self._sleep = sleep

    async def run(self, flow: FlowState, code: str) -> str | FailureReason:
        """Exchange the code of a consumed flow, once; returns the install's id, or why there is none.

        Raises:
            SQLAlchemyError, OSError: the control store is away. Whether the install was saved is not known.
        """
        verifier = None
        if flow.code_verifier_ciphertext is not None:
            verifier = self._encryption.decrypt(flow.code_verifier_ciphertext, verifier_place(flow.state_hash))
        grant = await self._grant(code, verifier)
        if isinstance(grant, FailureReason):
            return grant
        if grant.scope != self._scope:
            logger.warning("the granted scope differs from %s", self._scope)
        try:
            return await self._save(flow, grant)
        except InstallOfAnotherAccount:
            return FailureReason.INSTALL_OF_ANOTHER_ACCOUNT
        except ReconnectedElsewhere:
            # The token is dropped here: what was granted by mistake is never used.
            logger.warning("a reconnect of %s came back with %s", flow.reconnects, grant.workspace_name)
            return FailureReason.RECONNECTED_ELSEWHERE

    async def _grant(self, code: str, verifier: str | None) -> InstallGrant | FailureReason:
        try:
            return await self._identity.exchange_code(code, code_verifier=verifier)
        except TokenRequestRejected as rejected:
            logger.warning(
                "Segment's token endpoint answered %s %s: %s %s",
                rejected.status,
                rejected.error,
                rejected.description or "",
                rejected.hint or "",
            )
            return reason_for_rejection(rejected)
        except NotSent as problem:
            logger.warning("the code was not taken to Segment: %s", problem)
            return FailureReason.SEGMENT_UNAVAILABLE
        except InvalidAnswer as problem:
            logger.warning("Segment's token endpoint sent an answer that can't be used: %s", problem)
            return FailureReason.ANSWER_UNREADABLE
        except SegmentUnavailable as problem:
            logger.warning("Segment's token endpoint is unavailable, and may have made the install: %s", problem)
            return FailureReason.EXCHANGE_LOST

    async def _save(self, flow: FlowState, grant: InstallGrant) -> str:
        for pause in _PAUSES_SECONDS:
            try:
                return await self._save_once(flow, grant)
            except (OperationalError, InterfaceError, NoConnectionLeft, OSError) as error:
                logger.warning("%s could not be saved yet (%s)", grant.install_name, type(error).__name__)
                await self._sleep(pause)
        try:
            return await self._save_once(flow, grant)
        except (OperationalError, InterfaceError, NoConnectionLeft, OSError):
            logger.error(  # noqa: TRY400 - the error itself is logged where the request is answered
                "Segment granted %s on %s to account %r, and it could not be saved: the customer has to remove the App "
                "in Segment and connect again",
                grant.install_name,
                grant.workspace_name,
                flow.account,
            )
            raise

    async def _save_once(self, flow: FlowState, grant: InstallGrant) -> str:
        now = self._clock()
        async with self._database.transaction() as session:
            install = await save_install(session, self._encryption, grant, flow=flow, scope=self._scope, now=now)
            await flow_states.finish(session, flow.state_hash, now=now, install_id=install.id)
        return install.id


def verifier_place(state_hash: str) -> Place:
    """Return what the code verifier of a flow is bound to."""
    return Place("flow_states", "code_verifier_ciphertext", state_hash)


def reason_for_rejection(rejected: TokenRequestRejected) -> FailureReason:
    """Map an error of the token endpoint (contract 2.5, its table) to a reason."""
    if means_install_already_exists(rejected.error, rejected.description, rejected.hint):
        return FailureReason.INSTALL_EXISTS_ELSEWHERE
    match rejected.error:
        case "invalid_grant":
            return FailureReason.CODE_REFUSED
        case "invalid_client":
            return FailureReason.CLIENT_REFUSED
        case "invalid_request":
            # A mismatch of the redirect_uri is reported as a missing parameter (contract 2.5).
            return FailureReason.REDIRECT_URI_REFUSED
        case "invalid_scope":
            return FailureReason.SCOPE_REFUSED
        case "unauthorized_client" | "unsupported_grant_type":
            return FailureReason.APP_MISCONFIGURED
        case _:
            return FailureReason.SEGMENT_REFUSED
