"""Short tokens that only this service can make: HMAC-SHA256 over a purpose and its parts."""

from __future__ import annotations

import base64
import hashlib
import hmac


class Signer:
    """Signs for one purpose, so that a signature made for another purpose never verifies here.

    Args:
        secret: 32 bytes, the same in every process (``db.control.service_secrets``).
        purpose: what the signatures are for, such as ``"flow"``.
    """

    def __init__(self, secret: bytes, purpose: str) -> None:
        self._secret = secret
        self._purpose = purpose

    def sign(self, *parts: str | int) -> str:
        """Return 43 characters of URL-safe base64."""
        text = "\x1f".join(map(str, (self._purpose, *parts))).encode("utf-8", "replace")
        return base64.urlsafe_b64encode(hmac.new(self._secret, text, hashlib.sha256).digest()).decode().rstrip("=")

    def verify(self, signature: str, *parts: str | int) -> bool:
        """Return True if the signature was made from these parts; compared in constant time."""
        return hmac.compare_digest(self.sign(*parts).encode(), signature.encode("utf-8", "replace"))
