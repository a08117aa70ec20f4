"""Signatures of Standard Webhooks (https://www.standardwebhooks.com): what our HTTP sink signs with."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping

_PREFIX = "whsec_"
_TOLERANCE_SECONDS = 300


class SignatureInvalid(ValueError):
    """A message was not signed with this secret, or too long ago."""


def new_secret() -> str:
    """Make a secret: ``whsec_`` and base64 of 32 random bytes."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def key_of(secret: str) -> bytes:
    """Return a secret's bytes.

    Raises:
        ValueError: it is not ``whsec_`` and base64 of 24 to 64 bytes.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or not 24 <= len(key) <= 64:
        raise ValueError("a signing secret is whsec_ and base64 of 24 to 64 bytes; make one with HttpSink.new_secret()")
    return key


def signed_headers(secret: str, *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers of a signed message; ``timestamp`` is in seconds since 1970."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{_sign(key_of(secret), message_id, timestamp, body)}",
    }


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, now: float) -> None:
    """Check a message as its receiver does; ``now`` is in seconds since 1970.

    Raises:
        SignatureInvalid: a header is missing or malformed, no signature fits, or it is older than five minutes.
    """
    message_id, timestamp = headers.get("webhook-id"), headers.get("webhook-timestamp", "")
    if not message_id or not timestamp.isdigit() or abs(now - int(timestamp)) > _TOLERANCE_SECONDS:
        raise SignatureInvalid("the message's id or time is missing, malformed or too old")
    expected = f"v1,{_sign(key_of(secret), message_id, int(timestamp), body)}".encode()
    presented = headers.get("webhook-signature", "").encode().split()
    if not any(hmac.compare_digest(expected, signature) for signature in presented):
        raise SignatureInvalid("no signature fits the message")


def _sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    text = f"{message_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
