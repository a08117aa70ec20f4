"""What the code exchange and a refresh give us, and how their answers are read (contract 2.5, 2.7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enable_with_segment.segment_api.answers import Answer, json_object
from enable_with_segment.segment_api.errors import (
    InvalidAnswer,
    SegmentUnavailable,
    TokenRequestRejected,
    foreign_text,
    means_install_already_exists,
)
from enable_with_segment.segment_api.names import NameInvalid, install_name, source_name, workspace_name, workspace_of

DEFAULT_EXPIRES_IN = 3600
"""Seconds a token lives when the answer does not say (RFC 6749 section 5.1 lets it be silent; contract 2.7)."""

_LONGEST_EXPIRES_IN = 24 * 3600
_LONGEST_TOKEN = 16 * 1024


@dataclass(frozen=True, slots=True)
class InstallGrant:
    """A finished code exchange: an App is installed on a workspace.

    Attributes:
        access_token: the install token; opaque, never parse it.
        expires_in: seconds, counted from the answer.
        scope: as granted; compare it with the one asked for.
        app_name: ``apps/{n}``, if given.
        install_name: ``installs/{n}``, the handle for every refresh.
        workspace_name: ``workspaces/{ws}``.
        source_names: full names; empty unless the scope is ``destination/{slug}``, one in practice.
    """

    access_token: str
    expires_in: int
    scope: str
    app_name: str | None
    install_name: str
    workspace_name: str
    source_names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"InstallGrant(install_name={self.install_name!r}, scope={self.scope!r}, access_token='***')"


@dataclass(frozen=True, slots=True)
class RefreshedToken:
    """A finished refresh. Names in its answer are not to be trusted, so there are none here (contract 2.7)."""

    access_token: str
    expires_in: int

    def __repr__(self) -> str:
        return f"RefreshedToken(expires_in={self.expires_in}, access_token='***')"


def read_install_grant(answer: Answer, *, requested_scope: str) -> InstallGrant:
    """Read the token endpoint's answer to a code exchange.

    Raises:
        TokenRequestRejected: an OAuth error, or "install already exists" with any status.
        InvalidAnswer: anything else that is not a complete grant.
        SegmentUnavailable: 429 or 5xx.
    """
    body = json_object(answer)
    if body is not None and isinstance(body.get("error"), str):
        rejected = _rejection(body, answer.status)
        if answer.status < 500 or rejected.install_already_exists:
            raise rejected
    if answer.status >= 500 or answer.status == 429:
        raise SegmentUnavailable(
            f"the token endpoint answered {answer.status}", status=answer.status, retry_after=answer.retry_after
        )
    if answer.status not in {200, 201} or body is None:
        raise InvalidAnswer(f"the token endpoint answered {answer.status} without an OAuth body", status=answer.status)
    sources = _source_names(body)
    return InstallGrant(
        access_token=_access_token(body),
        expires_in=_expires_in(body),
        scope=body["scope"] if isinstance(body.get("scope"), str) else requested_scope,
        app_name=foreign_text(body.get("app_name")) or None,
        install_name=_install_name(body),
        workspace_name=_workspace_name(body, sources),
        source_names=sources,
    )


def read_refreshed_token(body: Mapping[str, Any]) -> RefreshedToken:
    """Read the body of a successful refresh.

    Raises:
        InvalidAnswer: no usable token in it.
    """
    return RefreshedToken(_access_token(body), _expires_in(body))


def _rejection(body: Mapping[str, Any], status: int) -> TokenRequestRejected:
    texts = [foreign_text(body.get(field)) for field in ("error", "error_description", "error_hint")]
    if not means_install_already_exists(*texts) and means_install_already_exists(foreign_text(body.get("message"))):
        texts[1] = foreign_text(body.get("message"))
    return TokenRequestRejected(texts[0], description=texts[1], hint=texts[2], status=status)


def _access_token(body: Mapping[str, Any]) -> str:
    token = body.get("access_token")
    if not isinstance(token, str) or not token or len(token) > _LONGEST_TOKEN:
        raise InvalidAnswer("the answer holds no access_token")
    if not token.isascii() or any(not 0x21 <= ord(character) <= 0x7E for character in token):
        raise InvalidAnswer("the access_token holds characters that no header may carry")
    kind = body.get("token_type", "bearer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise InvalidAnswer("the token_type is not bearer")
    return token


def _expires_in(body: Mapping[str, Any]) -> int:
    """A whole number of seconds up to a day; anything else counts as not given."""
    value = body.get("expires_in")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 6:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LONGEST_EXPIRES_IN:
        return DEFAULT_EXPIRES_IN
    return value


def _install_name(body: Mapping[str, Any]) -> str:
    name = body.get("install_name")
    try:
        return install_name(name if isinstance(name, str) else "")
    except NameInvalid:
        raise InvalidAnswer("the answer holds no install_name") from None


def _workspace_name(body: Mapping[str, Any], sources: tuple[str, ...]) -> str:
    names = _texts(body, "workspace_names", "workspace_name")
    try:
        return workspace_name(names[0]) if names else workspace_of(sources[0] if sources else "")
    except NameInvalid:
        raise InvalidAnswer("the answer names no workspace") from None


def _source_names(body: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        return tuple(source_name(name) for name in _texts(body, "source_names", "source_name"))
    except NameInvalid:
        raise InvalidAnswer("the answer holds a source name of an unknown form") from None


def _texts(body: Mapping[str, Any], plural: str, singular: str) -> list[str]:
    """The names under the array's field, or under its singular that prose and some versions use."""
    value = body.get(plural)
    if not isinstance(value, list):
        value = [body.get(singular)]
    return [name for name in value if isinstance(name, str) and name]
