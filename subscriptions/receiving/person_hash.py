"""People in the event log's columns: keyed hashes of their ids, so that the log can find them but not name them."""

from __future__ import annotations

import hashlib

_BYTES = 16


class PersonHash:
    """Hashes user ids and anonymous ids; one space for both, because an alias turns one into the other.

    Args:
        secret: 32 bytes of the service's own (``db.control.service_secrets``, name ``person_hash``).
    """

    SECRET_NAME = "person_hash"  # noqa: S105  the name of a secret, not one

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of(self, identifier: str | None) -> str | None:
        """Return the hash of an id, ``None`` for none."""
        if identifier is None:
            return None
        return hashlib.blake2b(identifier.encode(), digest_size=_BYTES, key=self._secret).hexdigest()
