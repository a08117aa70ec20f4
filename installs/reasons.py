"""Why an install is where it is: typed reasons for the operator, a sentence for the customer, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from enable_with_segment.db.control.tables import InstallStatus


class Reason(StrEnum):
    """What is stored as an install's ``status_reason``."""

    SCOPE_WITHOUT_SOURCE = "scope_without_source"
    COMPONENT_UNKNOWN = "component_unknown"
    SCOPE_TOO_SMALL = "scope_too_small"
    SOURCE_GONE = "source_gone"
    KEY_DIFFERS = "key_differs"
    TOKEN_REJECTED = "token_rejected"  # noqa: S105  # a reason's name
    REFRESH_REFUSED = "refresh_refused"
    REMOVAL_REPORTED = "removal_reported"
    INSTALL_REMOVED = "install_removed"
    SEGMENT_UNAVAILABLE = "segment_unavailable"
    API_KEY_HOOK_FAILED = "api_key_hook_failed"
    SETTINGS_MISSING = "settings_missing"
    REQUEST_REFUSED = "request_refused"
    DESTINATION_CREATE_FAILED = "destination_create_failed"
    DESTINATION_UPDATE_FAILED = "destination_update_failed"
    DISCONNECT_REQUESTED = "disconnect_requested"
    DISCONNECTED_BY_REQUEST = "disconnected_by_request"
    DESTINATION_LEFT_ON = "destination_left_on"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a reason means.

    Attributes:
        status: the status an install gets.
        sentence: what happened and what to do next. ``{source}`` and ``{detail}`` are filled in.
        alarm: whether an operator has to act; logged as an error.
    """

    status: InstallStatus
    sentence: str
    alarm: bool = False


EXPLANATIONS: Mapping[Reason, Explanation] = {
    Reason.SCOPE_WITHOUT_SOURCE: Explanation(
        InstallStatus.FAILED,
        "Segment connected the whole workspace instead of one source, so no destination can be set up. "
        "Please contact support: the scope of the Segment App has to be changed.",
        alarm=True,
    ),
    Reason.COMPONENT_UNKNOWN: Explanation(
        InstallStatus.FAILED,
        "This connection belongs to a product that is no longer offered here. Please contact support.",
        alarm=True,
    ),
    Reason.SCOPE_TOO_SMALL: Explanation(
        InstallStatus.FAILED,
        "Segment let us in, but not far enough to set up the destination. This isn't your fault; please contact "
        "support: the permission that the Segment App asks for has to be changed.",
        alarm=True,
    ),
    Reason.SOURCE_GONE: Explanation(
        InstallStatus.NEEDS_RECONNECT,
        "The source {source} no longer exists in your Segment workspace. Connect again and choose another source.",
    ),
    Reason.KEY_DIFFERS: Explanation(
        InstallStatus.AWAITING_CONFIRMATION,
        "On the source {source} this destination already holds a key that isn't this account's. "
        "If you confirm, that key is replaced and its events come to this account.",
    ),
    Reason.TOKEN_REJECTED: Explanation(
        InstallStatus.NEEDS_RECONNECT,
        "Segment no longer accepts our access to your workspace, even after renewing it. Connect again. If that "
        "doesn't help, contact support: the permission that the Segment App asks for may be too small.",
    ),
    Reason.REFRESH_REFUSED: Explanation(
        InstallStatus.NEEDS_RECONNECT,
        "Segment refused to renew our access to your workspace. Connect again; if that doesn't help, contact support.",
        alarm=True,
    ),
    Reason.REMOVAL_REPORTED: Explanation(
        InstallStatus.NEEDS_RECONNECT,
        "Segment says that the connection was removed in your workspace. Events that still arrive are taken. Connect "
        "again if you want to keep it; otherwise our access is erased when no event has come for {detail}.",
    ),
    Reason.INSTALL_REMOVED: Explanation(
        InstallStatus.DISCONNECTED,
        "The connection was removed in your Segment workspace. Connect again if you want the events back.",
    ),
    Reason.SEGMENT_UNAVAILABLE: Explanation(
        InstallStatus.FAILED,
        "Segment didn't answer for so long that we stopped trying. Try again; you don't have to allow it anew.",
    ),
    Reason.API_KEY_HOOK_FAILED: Explanation(
        InstallStatus.FAILED,
        "We couldn't make an API key for this connection. This isn't your fault. Try again later, or contact support; "
        "you don't have to allow it anew.",
        alarm=True,
    ),
    Reason.SETTINGS_MISSING: Explanation(
        InstallStatus.FAILED,
        "The destination needs settings that were not given: {detail}. Start again and fill them in.",
    ),
    Reason.REQUEST_REFUSED: Explanation(
        InstallStatus.FAILED,
        "Segment didn't accept the destination's settings ({detail}). Please contact support.",
        alarm=True,
    ),
    Reason.DESTINATION_CREATE_FAILED: Explanation(
        InstallStatus.FAILED,
        "Segment couldn't create the destination on the source {source}. Try again in a few minutes; you don't have "
        "to allow it anew.",
    ),
    Reason.DESTINATION_UPDATE_FAILED: Explanation(
        InstallStatus.FAILED,
        "Segment took our change to the destination on the source {source}, but doesn't show it. Try again in a few "
        "minutes, or check in Segment that the destination is switched on.",
    ),
    Reason.DISCONNECT_REQUESTED: Explanation(
        InstallStatus.DISCONNECTING,
        "The destination is being switched off in your Segment workspace. What Segment sends until then still arrives; "
        "after that, our access is erased.",
    ),
    Reason.DISCONNECTED_BY_REQUEST: Explanation(
        InstallStatus.DISCONNECTED,
        "Disconnected on request: the destination is switched off and our access is erased.",
    ),
    Reason.DESTINATION_LEFT_ON: Explanation(
        InstallStatus.DISCONNECTED,
        "Disconnected on request: our access is erased and the key no longer works. But Segment didn't let us switch "
        "the destination off, so please switch it off or delete it in your Segment workspace.",
    ),
}

UNCONFIRMED = (
    "Segment refused a step of the setup. Often that passes, so we try again in a few seconds; this page will change "
    "by itself."
)
"""What the customer reads after a first refusal."""

DISCONNECT_WAITING = (
    "Segment doesn't let us switch the destination off yet. We keep trying for three days. What Segment sends until "
    "then still arrives; after that, our access is erased."
)

WAITING: Mapping[Reason, str] = {
    Reason.SEGMENT_UNAVAILABLE: "Segment isn't answering right now. We keep trying, so there is nothing to do; "
    "this page will change by itself.",
    Reason.API_KEY_HOOK_FAILED: "We can't make an API key for this connection right now. We keep trying, so there is "
    "nothing to do; this page will change by itself.",
}
"""What the customer reads while work is retried, by what holds it up."""


def explain(reason: Reason, *, source: str | None = None, detail: str = "") -> tuple[InstallStatus, str]:
    """Return the status and the filled-in sentence of a reason."""
    explanation = EXPLANATIONS[reason]
    slug = (source or "").rpartition("/")[2]
    return explanation.status, explanation.sentence.format(source=f"“{slug}”" if slug else "", detail=detail)
