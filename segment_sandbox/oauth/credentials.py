"""Reading an Authorization header."""

from __future__ import annotations

import base64
import binascii
import hmac
from urllib.parse import unquote_plus


def basic_pair(authorization: str | None) -> tuple[str, str] | None:
    """Name and password of a Basic header, split at the first colon; None when there is none to read."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
    name, _, password = decoded.partition(":")
    return name, password


def bearer_token(authorization: str | None) -> str | None:
    """The token of a Bearer header, or None."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def url_decoded(pair: tuple[str, str]) -> tuple[str, str]:
    """Both halves form-decoded, as the token endpoint reads them (RFC 6749 section 2.3.1, contract 2.5)."""
    return unquote_plus(pair[0]), unquote_plus(pair[1])


def same(left: str, right: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(left.encode(), right.encode())
