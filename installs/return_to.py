"""Where a customer may be sent back to: a path on our own origin or a listed origin, nothing else (OA-15)."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")


class ReturnAddressRefused(ValueError):
    """The address is not allowed; the text says which ones are."""


def check_return_to(address: str, *, own_origin: str, allowed_origins: Collection[str]) -> str:
    """Return the address unchanged if a customer may be sent there.

    Raises:
        ReturnAddressRefused: another origin, credentials, control characters, or a form browsers read differently.
    """
    if _FORBIDDEN.search(address):
        raise ReturnAddressRefused("a return address must not hold spaces, control characters or backslashes")
    try:
        parts = urlsplit(address)
    except ValueError:
        raise ReturnAddressRefused("the return address is not a URL") from None
    if not parts.scheme and not parts.netloc:
        if address.startswith("/") and not address.startswith("//"):
            return address
        raise ReturnAddressRefused("a relative return address must be a path that starts with one '/'")
    if parts.username is not None or parts.password is not None:
        raise ReturnAddressRefused("a return address must not hold credentials")
    origin = f"{parts.scheme}://{parts.netloc}".lower()
    if parts.scheme not in {"http", "https"} or origin not in {own_origin.lower(), *map(str.lower, allowed_origins)}:
        raise ReturnAddressRefused("the return address is on an origin that RETURN_ORIGINS does not list")
    return address
