"""What can go wrong when we call Segment, as one tree.

::

    SegmentError
    ├── SegmentUnavailable          an outage: try again later, for days if need be
    │   ├── NotSent                 nothing went out, so nothing can have happened
    │   ├── InternalFailure         code 13, which may mean anything: decide by a GET
    │   ├── RateLimited             429 or code 8
    │   └── InvalidAnswer           an answer that is not in Segment's form: something else answered
    ├── TokenRequestRejected        the token endpoint said no (RFC 6749 section 5.2)
    └── ConfigApiError              the Config API said no, in its own form with a code (contract 3.7)
        ├── Unauthenticated         code 16: the token is expired, replaced or unknown
        ├── InsufficientScope       code 7
        ├── NotFound                code 5
        └── AlreadyExists           409, code 6, or the words "destination already exists" in answer to a create

``segment_api.answers`` decides which one an answer of the Config API is.

No message holds a token, a code or the client secret. Texts that came from Segment are cut to 300 characters
and rid of control characters; they are still a stranger's words, so escape them in pages.
"""

from __future__ import annotations

import re

_LONGEST_TEXT = 300
_INSTALL_ALREADY_EXISTS = "install already exists"


class SegmentError(Exception):
    """Any failure of a call to Segment."""


class SegmentUnavailable(SegmentError):
    """An outage: no answer, an answer that says "not now", or one that is not Segment's.

    Attributes:
        status: the HTTP status, ``None`` when there was no answer.
        retry_after: seconds that Segment asked us to wait, if it did.
        withheld: we decided not to ask, so that no time was lost to Segment.
    """

    withheld = False

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class NotSent(SegmentUnavailable):
    """No connection came about, or the request was withdrawn before it went out."""


class InternalFailure(SegmentUnavailable):
    """Code 13: "exists", "absent" and "broken" all look like this (contract 3.7)."""


class RateLimited(SegmentUnavailable):
    """More than 200 requests in a minute (contract 3.7). Wait at least that minute."""


class InvalidAnswer(SegmentUnavailable):
    """Not in Segment's form: HTML, broken JSON, too large, a redirect, or without a field that the contract has."""


class TokenRequestRejected(SegmentError):
    """The token endpoint refused.

    Attributes:
        error: a code of RFC 6749 section 5.2, or whatever Segment sent in its place.
        description, hint: Segment's sentences; may be empty.
        status: the HTTP status.
    """

    def __init__(self, error: str, *, description: str = "", hint: str = "", status: int) -> None:
        super().__init__(f"the token endpoint answered {status} {error}")
        self.error = error
        self.description = description
        self.hint = hint
        self.status = status

    @property
    def install_already_exists(self) -> bool:
        """Whether the App is installed on this workspace already (contract 2.8)."""
        return means_install_already_exists(self.error, self.description, self.hint)


class ConfigApiError(SegmentError):
    """The Config API refused.

    Attributes:
        status: the HTTP status.
        code: the gRPC status number of the body, ``None`` when the body had none.
        text: Segment's sentence; may be empty.
    """

    def __init__(self, status: int, code: int | None, text: str) -> None:
        numbers = f"{status}" if code is None else f"{status} (code {code})"
        super().__init__(f"the Config API answered {numbers}: {text or 'no text'}")
        self.status = status
        self.code = code
        self.text = text


class Unauthenticated(ConfigApiError):
    """The credentials were not accepted."""


class InsufficientScope(ConfigApiError):
    """The install's scope does not reach that far."""


class NotFound(ConfigApiError):
    """No such resource (code 5)."""


class AlreadyExists(ConfigApiError):
    """The name is taken, or so it seems: its observed form adds "or other internal error" (contract 3.3)."""


def means_install_already_exists(*texts: str | None) -> bool:
    """Tell whether any text says that this App is installed on the workspace already (contract 2.8).

    Where Segment says so and in which field is not known, so every text that an answer or a callback carries is
    looked at, in any case and with any separators.
    """
    return any(_INSTALL_ALREADY_EXISTS in re.sub(r"[\W_]+", " ", text).lower() for text in texts if text)


def foreign_text(value: object) -> str:
    """Return text that came from outside in a form fit for logs and records; empty if it is no text."""
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else " " for c in value[:_LONGEST_TEXT]).strip()
