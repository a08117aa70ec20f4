"""Reading what Segment's redirect brought back: a pure decision, made before any I/O (contract 2.4, cases 5-18)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from enable_with_segment.oauth_app.flow.failures import FailureReason

_SINGLE = frozenset({"code", "state", "error", "error_description", "error_hint", "iss", "scope"})
_LONGEST_VALUE = 4096
_ALL_OR_NOTHING = frozenset({"code", "state"})
"""Too long, these count as not given; a text is cut, and an error or an issuer stays one however long it is."""


@dataclass(frozen=True, slots=True)
class CodeReturned:
    """Segment granted the connection."""

    code: str = field(repr=False)
    state: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ErrorReturned:
    """Segment refused. ``state`` may be missing: request-validation errors carry an empty one (contract 2.3)."""

    error: str
    description: str | None
    hint: str | None
    state: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """We refuse to act on this request."""

    reason: FailureReason


CallbackQuery: TypeAlias = CodeReturned | ErrorReturned | Refused


def read_callback(parameters: Sequence[tuple[str, str]], *, issuer: str) -> CallbackQuery:
    """Decide what a callback's query means.

    A parameter that is there twice is refused (RFC 6749 section 3.1), as is an ``iss`` of somebody else (RFC 9207);
    an error wins over a code; unknown parameters are ignored.

    Args:
        parameters: the decoded query, in order.
        issuer: the base URL of Segment's identity service, without a trailing slash.
    """
    counted = Counter(name for name, _ in parameters)
    if any(counted[name] > 1 for name in _SINGLE):
        return Refused(FailureReason.PARAMETER_REPEATED)
    values = {
        name: value[:_LONGEST_VALUE]
        for name, value in parameters
        if name in _SINGLE and (len(value) <= _LONGEST_VALUE or name not in _ALL_OR_NOTHING)
    }
    if "iss" in values and values["iss"].rstrip("/") != issuer:
        return Refused(FailureReason.ISSUER_MISMATCH)
    state = values.get("state") or None
    if "error" in values:
        return ErrorReturned(
            error=values["error"],
            description=values.get("error_description"),
            hint=values.get("error_hint"),
            state=state,
        )
    code = values.get("code")
    if not code:
        return Refused(FailureReason.NOTHING_RETURNED)
    if state is None:
        return Refused(FailureReason.STATE_MISSING)
    return CodeReturned(code=code, state=state)
