"""The API key of a delivery: how it is presented (contract 5.3), and whether it may be used."""

from __future__ import annotations

import base64
import binascii

from enable_with_segment.components.errors import DeliveryRefused
from enable_with_segment.installs.key_cache import KeyHolder, KeyLookup, KeyState

_MAX_LENGTH = 1024
_HELP = "Copy a current API key into the destination's settings."
_KEY_PROBLEMS = {
    KeyState.UNKNOWN: (401, "Unknown API key. Copy a current key into the destination's settings."),
    KeyState.REVOKED: (401, "This API key was revoked or has expired. Copy a current key into the settings."),
    KeyState.SUSPENDED: (403, "The account of this API key is suspended."),
}


def presented_key(values: list[bytes]) -> str:
    """Return the key: the user name of Basic authentication, up to the first colon; the password is ignored.

    White space around it came with it when a customer pasted it, and is stripped (WH-23).

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
    key = key.strip()
    if not colon or not key:
        raise DeliveryRefused(401, f"The Authorization header is malformed. {_HELP}")
    return key


def check_key(lookup: KeyLookup, component: str) -> KeyHolder:
    """Return whom a key belongs to, if it may be used for a component.

    Raises:
        DeliveryRefused: 401 for an unknown or revoked key, 403 for a suspended account or another component's key.
    """
    if lookup.state is not KeyState.USABLE or lookup.holder is None:
        raise DeliveryRefused(*_KEY_PROBLEMS[lookup.state])
    if lookup.holder.component != component:
        raise DeliveryRefused(403, "This API key belongs to another destination.")
    return lookup.holder
