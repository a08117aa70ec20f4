"""Row identifiers, made before the row exists so that ciphertexts can be bound to them."""

from __future__ import annotations

import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """Return a fresh identifier such as ``ins_4f0d...``: the prefix, ``_`` and 20 characters (100 random bits)."""
    return f"{prefix}_{''.join(secrets.choice(_ALPHABET) for _ in range(20))}"


def incident_id() -> str:
    """Return eight hex digits that join what a person was shown with the log line about it."""
    return secrets.token_hex(4)
