"""What to do about a stored install token, and what a failed refresh means. No I/O."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from enum import StrEnum

from enable_with_segment.db.backoff import RetryPolicy
from enable_with_segment.db.control.install_tokens import Refusal, TokenHealth
from enable_with_segment.db.control.tables import InstallStatus, InstallToken
from enable_with_segment.installs.reasons import EXPLANATIONS, Reason
from enable_with_segment.installs.refusals import Verdict
from enable_with_segment.segment_api.errors import (
    ConfigApiError,
    NotFound,
    NotSent,
    SegmentError,
    SegmentUnavailable,
)

REFRESH_WHEN_LEFT = timedelta(seconds=60)
AFTER_REFUSAL = RetryPolicy(first=timedelta(minutes=1), ceiling=timedelta(hours=1))
AFTER_OUTAGE = RetryPolicy(first=timedelta(seconds=15), ceiling=timedelta(minutes=10))
_PATIENT_FAILURES = 3


class Step(StrEnum):
    """What to do about a token that somebody wants to use."""

    USE = "use"
    REFRESH = "refresh"
    WAIT = "wait"
    HOLD_BACK = "hold_back"


def next_step(token: InstallToken, *, now: datetime, rejected: bool) -> Step:
    """Choose the step.

    Args:
        rejected: Segment has just refused this very token.
    """
    if token.leased_until is not None and token.leased_until > now:
        return Step.WAIT  # it is being replaced, which ends it at once
    held_back = token.retry_at is not None and token.retry_at > now
    usable = is_usable(token, now=now) and not rejected
    if held_back and (not usable or token.health == TokenHealth.FAILING):
        return Step.HOLD_BACK
    return Step.USE if usable else Step.REFRESH


def is_usable(token: InstallToken, *, now: datetime) -> bool:
    """Tell whether a token is worth using: a minute left (contract 2.7), and no refresh whose outcome is not known."""
    return (
        token.access_token_ciphertext is not None
        and token.expires_at - now >= REFRESH_WHEN_LEFT
        and token.health != TokenHealth.UNCERTAIN
        and token.lease_id is None
    )


def may_have_minted(failed: SegmentError) -> bool:
    """Return True if Segment may have issued a token that was lost, which would have ended the stored one.

    3xx, 4xx and 503 mint nothing: 503 is the answer of a proxy that reached nobody (contract 3.7).
    """
    if isinstance(failed, NotSent) or not isinstance(failed, SegmentUnavailable):
        return False
    return failed.status is None or (failed.status != 503 and not 300 <= failed.status < 500)


def retry_at(
    now: datetime, failures: int, failed: SegmentError, *, repeated: bool = False, jitter: float
) -> datetime | None:
    """Return until when a failed refresh is not tried again; ``None`` while the caller's own pauses are enough.

    Args:
        failures: in a row, this one included.
        repeated: it was tried once more already.
        jitter: from 0 to 1.
    """
    asked = failed.retry_after if isinstance(failed, SegmentUnavailable) else None
    pause = timedelta(seconds=asked or 0)
    if isinstance(failed, ConfigApiError):
        pause = max(pause, AFTER_REFUSAL.delay(failures, jitter=jitter))
    elif repeated or failures >= _PATIENT_FAILURES:
        pause = max(pause, AFTER_OUTAGE.delay(failures, jitter=jitter))
    return now + pause if pause else None


def reason_for_refusal(refused: ConfigApiError) -> Reason:
    """Return why a refresh was refused: a removed install (code 5), or anything else, such as a wrong client secret."""
    return Reason.REMOVAL_REPORTED if isinstance(refused, NotFound) else Reason.REFRESH_REFUSED


def refusal_after(earlier: Refusal | None, reason: Reason, text: str, *, now: datetime) -> Refusal:
    """Return the refusal to store: the one for the same reason goes on, another reason begins anew."""
    since = earlier.since if earlier is not None and earlier.reason == reason.value else now
    return Refusal(reason.value, since, text)


def is_certain_at_once(reason: Reason, status: InstallStatus) -> bool:
    """Return True if a refusal needs no confirmation: a renewed token was refused, and nothing works yet (case 39)."""
    return reason is Reason.TOKEN_REJECTED and status is InstallStatus.PROVISIONING


def level_of(found: Verdict, reason: Reason, *, is_new: bool) -> int:
    """Return the log level of a refusal: an error if an operator has to act, once for each install."""
    alarms = (found is Verdict.TOGETHER and is_new) or (found is Verdict.CONFIRMED and EXPLANATIONS[reason].alarm)
    return logging.ERROR if alarms else logging.WARNING
