"""An HTTP answer, reduced to what decisions need, and what an answer of the Config API means (contract 3.7).

Every answer of the Config API is classified here, and only here. An error in Segment's own form, with a code, is
Segment's word. Anything else that is no success (HTML, a redirect, broken JSON, a proxy's 404) is an outage: something
other than Segment answered, so it proves nothing about the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enable_with_segment.segment_api.errors import (
    AlreadyExists,
    ConfigApiError,
    InsufficientScope,
    InternalFailure,
    InvalidAnswer,
    NotFound,
    RateLimited,
    SegmentError,
    SegmentUnavailable,
    Unauthenticated,
    foreign_text,
)

_LONGEST_RETRY_AFTER = 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body, and the seconds of ``Retry-After`` if it was there in that form."""

    status: int
    body: bytes
    retry_after: float | None = None

    def __repr__(self) -> str:
        return f"Answer(status={self.status}, {len(self.body)} bytes)"


def retry_after_seconds(header: str | None) -> float | None:
    """Read ``Retry-After`` in seconds, up to an hour; the date form is not used here (RFC 9110 section 10.2.3)."""
    if header is None or not header.isascii() or not header.strip().isdigit() or len(header) > 12:
        return None
    return min(float(header), _LONGEST_RETRY_AFTER)


def json_object(answer: Answer) -> dict[str, Any] | None:
    """Return the body as a JSON object, ``None`` if it is anything else."""
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True)
class OwnError:
    """An error in Segment's own form: ``{"error": "<text>", "code": <gRPC status number>}``."""

    code: int
    text: str


def own_error(body: Mapping[str, Any] | None) -> OwnError | None:
    """Read an error in Segment's own form, ``None`` if the body is anything else."""
    if body is None or not isinstance(body.get("error"), str):
        return None
    code = body.get("code")
    if not isinstance(code, int) or isinstance(code, bool) or code not in _GRPC_ERRORS:
        return None
    return OwnError(code, _error_text(body))


def config_api_object(answer: Answer, *, creating: bool = False) -> dict[str, Any]:
    """Return the object of a successful answer.

    Args:
        creating: the request was a create, so that "already exists" can be meant.

    Raises:
        SegmentError: see :func:`config_api_failure`; ``InvalidAnswer`` also for a success without a JSON object.
    """
    body = json_object(answer)
    failure = config_api_failure(answer, body, creating=creating)
    if failure is not None:
        raise failure
    if body is None:
        raise InvalidAnswer(f"the Config API answered {answer.status} with {_form(answer)}", status=answer.status)
    return body


def config_api_failure(
    answer: Answer, body: Mapping[str, Any] | None, *, creating: bool = False, any_body: bool = False
) -> SegmentError | None:
    """Return what an answer failed with, ``None`` for a success.

    An error in Segment's form is one whatever the status says, but it is final only with a status of the client's
    fault: a code and a status that contradict each other are an outage. The observed "already exists" came without a
    known status and form (contract 3.3); a create takes it in any, because a GET decides afterwards.

    Args:
        body: the answer's body, if it is a JSON object.
        creating: the request was a create, so that "already exists" can be meant.
        any_body: a success may have any body: for a delete, whose effect is read back.
    """
    status, own = answer.status, own_error(body)
    if status == 429 or (own is not None and own.code == _RATE_LIMITED):
        return RateLimited("the Config API's rate limit is used up", status=status, retry_after=answer.retry_after)
    if creating and (status == 409 or "destination already exists" in _error_text(body).lower()):
        return AlreadyExists(status, None if own is None else own.code, _error_text(body))
    if own is not None:
        return _own_failure(answer, own)
    if status >= 500:
        return SegmentUnavailable(f"the Config API answered {status}", status=status, retry_after=answer.retry_after)
    if status in _SUCCESS and (body is not None or any_body):
        return None
    return InvalidAnswer(
        f"the Config API answered {status} with {_form(answer)}, not in Segment's form: "
        "a maintenance page, a proxy, or a wrong SEGMENT_CONFIG_API_URL",
        status=status,
        retry_after=answer.retry_after,
    )


def _error_text(body: Mapping[str, Any] | None) -> str:
    return "" if body is None else foreign_text(body.get("error"))


def _own_failure(answer: Answer, own: OwnError) -> SegmentError:
    status = answer.status
    if own.code == _INTERNAL:
        return InternalFailure(f"the Config API answered {status} (code 13): {own.text}", status=status)
    if own.code not in _FINAL or not 400 <= status < 500 or status in _TIMING:
        return SegmentUnavailable(
            f"the Config API answered {status} (code {own.code}): {own.text}",
            status=status,
            retry_after=answer.retry_after,
        )
    return _FINAL[own.code](status, own.code, own.text)


def _form(answer: Answer) -> str:
    start = answer.body[:64].lstrip().lower()
    if not start:
        return "no body"
    if start.startswith(b"<"):
        return "HTML"
    return "JSON of another form" if json_object(answer) is not None else "text"


_SUCCESS = frozenset({200, 201, 204})
_TIMING = frozenset({408, 425})
"""Statuses that speak of the moment and not of the request: Request Timeout, Too Early."""
_GRPC_ERRORS = range(1, 17)
_RATE_LIMITED = 8
_INTERNAL = 13
_FINAL: Mapping[int, type[ConfigApiError]] = {
    3: ConfigApiError,  # invalid argument
    5: NotFound,
    6: AlreadyExists,
    7: InsufficientScope,
    9: ConfigApiError,  # failed precondition
    11: ConfigApiError,  # out of range
    16: Unauthenticated,
}
"""Segment's own codes that say no. Every other code of gRPC speaks of Segment's trouble."""
