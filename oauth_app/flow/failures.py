"""Every way the install flow can fail: a typed reason for the operator, plain words and a next step for the customer.

One table, so that a page, a log line and a test speak of the same thing (contract 2.4, 2.5, 2.8).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from enable_with_segment.db.control import flow_states


class FailureReason(StrEnum):
    """What the operator sees in logs and in the flow's record."""

    LINK_UNUSABLE = "link_unusable"
    NOT_SIGNED_IN = "not_signed_in"
    OTHER_ACCOUNT = "other_account"
    CROSS_SITE = "cross_site"
    OAUTH_NOT_CONFIGURED = "oauth_not_configured"
    TOO_MANY_FLOWS = "too_many_flows"
    SERVICE_STOPPED = "service_stopped"
    NOTHING_RETURNED = "nothing_returned"
    PARAMETER_REPEATED = "parameter_repeated"
    STATE_MISSING = "state_missing"
    STATE_UNKNOWN = "state_unknown"
    STATE_OF_ANOTHER_BROWSER = "state_of_another_browser"
    STATE_USED = "state_used"
    STATE_EXPIRED = "state_expired"
    ISSUER_MISMATCH = "issuer_mismatch"
    ACCESS_DENIED = "access_denied"
    NOT_OWNER = "not_owner"
    SCOPE_REFUSED = "scope_refused"
    APP_MISCONFIGURED = "app_misconfigured"
    SEGMENT_UNAVAILABLE = "segment_unavailable"
    SEGMENT_REFUSED = "segment_refused"
    CODE_REFUSED = "code_refused"
    REDIRECT_URI_REFUSED = "redirect_uri_refused"
    CLIENT_REFUSED = "client_refused"
    EXCHANGE_LOST = flow_states.EXCHANGE_LOST
    ANSWER_UNREADABLE = flow_states.ANSWER_UNREADABLE
    INSTALL_EXISTS_ELSEWHERE = "install_exists_elsewhere"
    INSTALL_WITHOUT_TOKEN = "install_without_token"  # noqa: S105 - a reason's name
    INSTALL_UNCLEAR = "install_unclear"
    INSTALL_OF_ANOTHER_ACCOUNT = "install_of_another_account"
    RECONNECTED_ELSEWHERE = flow_states.RECONNECTED_ELSEWHERE
    PAGE_UNKNOWN = "page_unknown"
    STORE_AWAY = "store_away"
    FUNCTION_FAILED = "function_failed"
    OUR_FAULT = "our_fault"


class NextStep(StrEnum):
    """What the page offers."""

    START_AGAIN = "start_again"
    ASK_FOR_LINK = "ask_for_link"
    CONTACT_SUPPORT = "contact_support"
    MANUAL_KEY = "manual_key"
    CHOOSE = "choose"
    WAIT = "wait"

    @property
    def offers_key(self) -> bool:
        """Whether the page offers an API key to paste by hand."""
        return self in {NextStep.MANUAL_KEY, NextStep.CHOOSE}


@dataclass(frozen=True, slots=True)
class Failure:
    """How one reason is told. ``{partner}`` in the texts is the partner's name; ``alarm`` wants an operator soon."""

    status: int
    title: str
    text: str
    next_step: NextStep = NextStep.START_AGAIN
    alarm: bool = False


_OWNER = "To connect, you must be a Workspace Owner of the Segment workspace you choose."

FAILURES: dict[FailureReason, Failure] = {
    FailureReason.LINK_UNUSABLE: Failure(
        404,
        "This link can't be used",
        "It was used already, has expired, or isn't complete. Nothing was changed, and you can get a new one.",
        NextStep.ASK_FOR_LINK,
    ),
    FailureReason.NOT_SIGNED_IN: Failure(
        401,
        "Please start in {partner}",
        "We can't tell which account to connect. Sign in to {partner} and choose “Enable with Segment” there.",
        NextStep.ASK_FOR_LINK,
    ),
    FailureReason.OTHER_ACCOUNT: Failure(
        403,
        "This link is for another account",
        "You are signed in to {partner} with a different account than the one this link was made for. "
        "Sign in with that account, or ask for a link of your own.",
        NextStep.ASK_FOR_LINK,
    ),
    FailureReason.CROSS_SITE: Failure(
        403,
        "Please press the button on our own page",
        "The request came from another site, so nothing was started. Open the link again and use the button there.",
        NextStep.ASK_FOR_LINK,
    ),
    FailureReason.OAUTH_NOT_CONFIGURED: Failure(
        404,
        "One-click connection isn't available",
        "{partner} connects to Segment with an API key that you paste into Segment. Support can give you one.",
        NextStep.CONTACT_SUPPORT,
    ),
    FailureReason.TOO_MANY_FLOWS: Failure(
        429,
        "Many people are connecting right now",
        "Nothing was started. Please try again in a few minutes.",
    ),
    FailureReason.SERVICE_STOPPED: Failure(
        503,
        "Connecting is paused",
        "{partner} has paused connections to Segment for a while. Nothing was changed. Please try again later.",
    ),
    FailureReason.NOTHING_RETURNED: Failure(
        400,
        "Segment sent nothing back",
        "This page is where Segment returns to after you allow the connection. Nothing was changed.",
        NextStep.ASK_FOR_LINK,
    ),
    FailureReason.PARAMETER_REPEATED: Failure(
        400,
        "This address isn't right",
        "The address that brought you here holds the same value twice, so we didn't use it. Nothing was changed.",
    ),
    FailureReason.STATE_MISSING: Failure(
        400,
        "We can't match this to a connection you started",
        "The answer from Segment doesn't say which connection it belongs to. Nothing was changed.",
    ),
    FailureReason.STATE_UNKNOWN: Failure(
        400,
        "We can't match this to a connection you started",
        "The connection was never started here, or it was started too long ago. Nothing was changed.",
    ),
    FailureReason.STATE_OF_ANOTHER_BROWSER: Failure(
        400,
        "This connection was started in another browser",
        "For your safety it can only be finished in the browser it was started in. Nothing was changed.",
    ),
    FailureReason.STATE_USED: Failure(
        400,
        "This connection was finished already",
        "Each connection can be finished once. If it didn't work the first time, start a new one.",
    ),
    FailureReason.STATE_EXPIRED: Failure(
        400,
        "That took a little too long",
        "For your safety a connection has to be finished within ten minutes. Nothing was changed.",
    ),
    FailureReason.ISSUER_MISMATCH: Failure(
        400,
        "This answer didn't come from Segment",
        "The address that brought you here names another sender, so we didn't use it. Nothing was changed.",
        NextStep.CONTACT_SUPPORT,
        alarm=True,
    ),
    FailureReason.ACCESS_DENIED: Failure(
        403,
        "Segment wasn't connected",
        "The request was declined in Segment, so {partner} has no access and nothing was changed. " + _OWNER,
    ),
    FailureReason.NOT_OWNER: Failure(
        403,
        "You need to be a Workspace Owner",
        _OWNER + " Ask an owner of the workspace to open this connection, or choose a workspace that you own.",
    ),
    FailureReason.SCOPE_REFUSED: Failure(
        400,
        "{partner} isn't set up correctly with Segment",
        "Segment didn't accept the permission that {partner} asked for. This isn't your fault, and trying again "
        "won't help until it's fixed.",
        NextStep.CONTACT_SUPPORT,
        alarm=True,
    ),
    FailureReason.APP_MISCONFIGURED: Failure(
        400,
        "{partner} isn't set up correctly with Segment",
        "Segment didn't accept the way {partner} asked to connect. This isn't your fault, and trying again won't "
        "help until it's fixed.",
        NextStep.CONTACT_SUPPORT,
        alarm=True,
    ),
    FailureReason.SEGMENT_UNAVAILABLE: Failure(
        503,
        "Segment isn't answering right now",
        "Segment couldn't be reached, so nothing was connected. Wait a minute and start again.",
    ),
    FailureReason.EXCHANGE_LOST: Failure(
        503,
        "Segment's answer was lost",
        "Segment may have connected {partner} to your workspace, but its answer didn't reach us. Wait a minute and "
        "start again. If that isn't possible then, the page says how to go on.",
    ),
    FailureReason.SEGMENT_REFUSED: Failure(
        400,
        "Segment couldn't finish the connection",
        "Segment reported a problem, so nothing was connected. Trying again often helps. " + _OWNER,
    ),
    FailureReason.CODE_REFUSED: Failure(
        400,
        "That took a little too long",
        "Segment no longer accepts this attempt. Start again; it takes a few seconds.",
    ),
    FailureReason.REDIRECT_URI_REFUSED: Failure(
        502,
        "{partner} isn't set up correctly with Segment",
        "The address Segment returns to isn't the one it expects. This isn't your fault, and trying again won't "
        "help until it's fixed.",
        NextStep.CONTACT_SUPPORT,
        alarm=True,
    ),
    FailureReason.CLIENT_REFUSED: Failure(
        502,
        "{partner} isn't set up correctly with Segment",
        "Segment didn't recognise {partner}. This isn't your fault, and trying again won't help until it's fixed.",
        NextStep.CONTACT_SUPPORT,
        alarm=True,
    ),
    FailureReason.ANSWER_UNREADABLE: Failure(
        502,
        "Segment's answer made no sense",
        "We couldn't read what Segment sent. Please start again in a minute. If that isn't possible then, the page "
        "says how to go on.",
        alarm=True,
    ),
    FailureReason.INSTALL_EXISTS_ELSEWHERE: Failure(
        409,
        "{partner} is already connected to this workspace",
        "Segment allows one connection of {partner} per workspace, and we have no record of this one for your account. "
        "If it was made from another account, ask its owner to disconnect it. Otherwise remove {partner} in the "
        "settings of your Segment workspace, and start again. Or connect this source by hand with an API key.",
        NextStep.MANUAL_KEY,
    ),
    FailureReason.INSTALL_WITHOUT_TOKEN: Failure(
        409,
        "Segment's answer to an earlier attempt was lost",
        "Segment connected {partner} to this workspace then, and gives access to it only once. Remove {partner} in the "
        "settings of your Segment workspace, and start again. Or connect this source by hand with an API key.",
        NextStep.MANUAL_KEY,
        alarm=True,
    ),
    FailureReason.INSTALL_UNCLEAR: Failure(
        409,
        "Which connection do you mean?",
        "Segment says that the workspace you chose is connected to {partner} already, but not which one it is. Nothing "
        "was changed yet. Please choose the connection of that workspace.",
        NextStep.CHOOSE,
    ),
    FailureReason.INSTALL_OF_ANOTHER_ACCOUNT: Failure(
        409,
        "This workspace belongs to another {partner} account",
        "It is connected already, and we left that connection as it is. Ask support if it should move to this account.",
        NextStep.CONTACT_SUPPORT,
        alarm=True,
    ),
    FailureReason.RECONNECTED_ELSEWHERE: Failure(
        409,
        "That was another workspace or source",
        "You wanted to renew an existing connection, but chose another workspace or source in Segment. We left the "
        "connection as it is and don't use what you just allowed; you can remove it in that workspace. Start again "
        "and choose the same source as before.",
    ),
    FailureReason.PAGE_UNKNOWN: Failure(
        404,
        "There is nothing at this address",
        "The address may be incomplete, or mistyped. Nothing was changed.",
        NextStep.ASK_FOR_LINK,
    ),
    FailureReason.STORE_AWAY: Failure(
        503,
        "This isn't possible right now",
        "{partner} can't read its records at the moment. Nothing is lost.",
        NextStep.WAIT,
        alarm=True,
    ),
    FailureReason.FUNCTION_FAILED: Failure(
        503,
        "This isn't possible right now",
        "{partner} can't tell which account is yours at the moment, or can't make a key for it. This isn't your fault, "
        "and nothing was changed.",
        NextStep.WAIT,
        alarm=True,
    ),
    FailureReason.OUR_FAULT: Failure(
        500,
        "Something went wrong on our side",
        "This isn't your fault. Please try again; if it happens once more, tell support the reference below.",
        NextStep.CONTACT_SUPPORT,
        alarm=True,
    ),
}


def reason_for_error(error: str, *texts: str | None) -> FailureReason:
    """Map the ``error`` of a callback (contract 2.4) to a reason; ``texts`` are its description and hint."""
    known = _CALLBACK_ERRORS.get(error)
    words = " ".join(text for text in texts if text).lower()
    if "owner" in words and known in {None, FailureReason.ACCESS_DENIED}:
        return FailureReason.NOT_OWNER
    return known or FailureReason.SEGMENT_REFUSED


_CALLBACK_ERRORS: dict[str, FailureReason] = {
    "access_denied": FailureReason.ACCESS_DENIED,
    "invalid_scope": FailureReason.SCOPE_REFUSED,
    "invalid_request": FailureReason.APP_MISCONFIGURED,
    "unauthorized_client": FailureReason.APP_MISCONFIGURED,
    "unsupported_response_type": FailureReason.APP_MISCONFIGURED,
    "invalid_state": FailureReason.APP_MISCONFIGURED,
    "invalid_client": FailureReason.APP_MISCONFIGURED,
    "server_error": FailureReason.SEGMENT_REFUSED,
    "temporarily_unavailable": FailureReason.SEGMENT_REFUSED,
    "login_required": FailureReason.SEGMENT_REFUSED,
    "consent_required": FailureReason.SEGMENT_REFUSED,
    "interaction_required": FailureReason.SEGMENT_REFUSED,
}
