"""An HTTP answer, reduced to what decisions need, and the Config API's errors read from it (contract 3.7)."""

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


def config_api_object(answer: Answer) -> dict[str, Any]:
    """Return the object of a successful answer.

    Raises:
        SegmentError: the failure that the status, or the code in the body, stands for.
        InvalidAnswer: success without a JSON object.
    """
    body = json_object(answer)
    failure = config_api_failure(answer, body)
    if failure is not None:
        raise failure
    if body is None:
        raise InvalidAnswer(f"the Config API answered {answer.status} without a JSON object", status=answer.status)
    return body


def config_api_failure(answer: Answer, body: Mapping[str, Any] | None) -> SegmentError | None:
    """Return what an answer failed with, ``None`` for a success.

    The observed "already exists" body came without a known status (contract 3.3), so a body that is an error counts
    as one whatever the status says, and where both speak the code decides.
    """
    status = answer.status
    text = foreign_text(body.get("error")) if body is not None else ""
    code = body.get("code") if body is not None else None
    code = code if isinstance(code, int) and not isinstance(code, bool) else None
    if status in {200, 201, 204} and not (text and code):
        return None
    kind = _BY_CODE.get(code) if code is not None else _BY_STATUS.get(status)
    if "destination already exists" in text.lower():
        kind = AlreadyExists
    if kind is None and code == 13 and status < 600:
        return InternalFailure(f"the Config API answered {status} (code 13): {text}", status=status)
    if code == 8 or status == 429:
        return RateLimited("the Config API's rate limit is used up", status=status, retry_after=answer.retry_after)
    if kind is None and (status >= 500 or code == 14):
        return SegmentUnavailable(f"the Config API answered {status}", status=status, retry_after=answer.retry_after)
    if 300 <= status < 400:
        return InvalidAnswer(f"the Config API answered with a redirect ({status})", status=status)
    return (kind or ConfigApiError)(status, code, text)


_BY_CODE: Mapping[int, type[ConfigApiError]] = {
    5: NotFound,
    6: AlreadyExists,
    7: InsufficientScope,
    16: Unauthenticated,
}
_BY_STATUS: Mapping[int, type[ConfigApiError]] = {
    401: Unauthenticated,
    403: InsufficientScope,
    404: NotFound,
    409: AlreadyExists,
}
