"""The API key in a delivery's ``Authorization`` header (contract 5.3)."""

from __future__ import annotations

import base64
import binascii

from subscriptions.errors import DeliveryRefused

_MAX_LENGTH = 1024
_HELP = "Copy a current API key into the destination's settings."


def presented_key(values: list[bytes]) -> str:
    """Return the key: the user name of Basic authentication, up to the first colon; the password is ignored.

    Args:
        values: every ``Authorization`` header of the request, as received.

    Raises:
        DeliveryRefused: 401 when there is none, more than one, or it is not Basic with base64 of ``key:``.
    """
    if not values:
        raise DeliveryRefused(401, f"The request carries no API key. {_HELP}")
    scheme, _, credentials = values[0].strip().partition(b" ")
    if len(values) > 1 or len(values[0]) > _MAX_LENGTH or scheme.lower() != b"basic":
        raise DeliveryRefused(401, f"The Authorization header is not a single Basic one. {_HELP}")
    try:
        key, colon, _ = base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        key, colon = "", ""
    if not colon or not key:
        raise DeliveryRefused(401, f"The Authorization header is malformed. {_HELP}")
    return key
