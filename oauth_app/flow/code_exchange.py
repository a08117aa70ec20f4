"""Exchanging the code, with every failure turned into a typed reason (contract 2.5, cases 26-32)."""

from __future__ import annotations

import logging

from enable_with_segment.oauth_app.flow.failures import FailureReason
from enable_with_segment.segment_api.errors import (
    InvalidAnswer,
    SegmentUnavailable,
    TokenRequestRejected,
    means_install_already_exists,
)
from enable_with_segment.segment_api.grants import InstallGrant
from enable_with_segment.segment_api.identity import IdentityClient

logger = logging.getLogger(__name__)


async def exchange(identity: IdentityClient, code: str, *, code_verifier: str | None) -> InstallGrant | FailureReason:
    """Exchange the code, or say why that was not possible."""
    try:
        return await identity.exchange_code(code, code_verifier=code_verifier)
    except TokenRequestRejected as rejected:
        logger.warning(
            "Segment's token endpoint answered %s %s: %s %s",
            rejected.status,
            rejected.error,
            rejected.description or "",
            rejected.hint or "",
        )
        return reason_for_rejection(rejected)
    except InvalidAnswer as problem:
        logger.warning("Segment's token endpoint sent an answer that can't be used: %s", problem)
        return FailureReason.ANSWER_UNREADABLE
    except SegmentUnavailable as problem:
        logger.warning("Segment's token endpoint is unavailable: %s", problem)
        return FailureReason.SEGMENT_UNAVAILABLE


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
            # A mismatch of the redirect_uri is told as a missing parameter (contract 2.5).
            return FailureReason.REDIRECT_URI_REFUSED
        case "invalid_scope":
            return FailureReason.SCOPE_REFUSED
        case "unauthorized_client" | "unsupported_grant_type":
            return FailureReason.APP_MISCONFIGURED
        case _:
            return FailureReason.SEGMENT_REFUSED
