"""Ids, tokens and random choices: unpredictable by default, repeatable with a seed."""

from __future__ import annotations

import base64
import random
import secrets
import string
import uuid


class Identifiers:
    """One stream of random values. With a seed, two sandboxes that do the same things issue the same values."""

    def __init__(self, seed: int | None = None, stream: str = "ids") -> None:
        self.random: random.Random = (
            secrets.SystemRandom() if seed is None else random.Random(f"{seed}/{stream}")  # noqa: S311  # repeatable on request only
        )

    def hex32(self) -> str:
        """32 hexadecimal digits, the form of a consent challenge (contract 2.3)."""
        return f"{self.random.getrandbits(128):032x}"

    def uuid(self) -> str:
        """A random UUID, the form of a client id and of a refreshed token (contract 2.2, 2.7)."""
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def dotted(self) -> str:
        """Two base64url parts of 43 characters joined by a dot: codes and first tokens (contract 2.4, 2.5)."""
        return f"{self._base64url()}.{self._base64url()}"

    def alphanumeric(self, length: int) -> str:
        """Letters and digits: write keys, project ids, client secrets."""
        return "".join(self.random.choices(string.ascii_letters + string.digits, k=length))

    def number(self) -> int:
        """The number part of `apps/{n}` and `installs/{n}`."""
        return self.random.randrange(1_000, 1_000_000)

    def _base64url(self) -> str:
        return base64.urlsafe_b64encode(self.random.randbytes(32)).rstrip(b"=").decode()
