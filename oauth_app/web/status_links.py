"""Links to the status page: they name an install, expire, and are signed, so that none can be guessed or extended."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from enable_with_segment.db.signer import Signer

_FORM = re.compile(r"(ins_[a-z0-9]{20})\.([0-9]{1,12})\.([A-Za-z0-9_-]{43})")


class StatusLinks:
    """Makes and opens the tokens of ``/status/{link}``.

    Args:
        secret: 32 bytes, the same in every process (``db.control.service_secrets``).
        lifetime: how long a link works.
    """

    def __init__(self, secret: bytes, lifetime: timedelta = timedelta(hours=24)) -> None:
        self._signer = Signer(secret, "status")
        self._lifetime = lifetime

    def make(self, install_id: str, *, now: datetime) -> str:
        """Return a token for an install."""
        expires = int((now + self._lifetime).timestamp())
        return f"{install_id}.{expires}.{self._signer.sign(install_id, expires)}"

    def open(self, token: str, *, now: datetime) -> str | None:
        """Return the install's id, or ``None`` for a token that is malformed, changed or expired."""
        match = _FORM.fullmatch(token)
        if match is None:
            return None
        install_id, expires = match[1], int(match[2])
        if not self._signer.verify(match[3], install_id, expires):
            return None
        return install_id if datetime.fromtimestamp(expires, UTC) > now else None
