"""What makes two deliveries the same event (contract 5.7): the message id, or the body where there is none."""

from __future__ import annotations

import hashlib
import json

KEY_BYTES = 16

_OF_THE_TRANSPORT = ("receivedAt", "sentAt")


def key_of_message(message_id: str) -> bytes:
    """Return the key of a message id: 16 bytes that cannot be steered towards another message's."""
    return hashlib.sha256(b"id\0" + message_id.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]


def key_of_body(body: bytes) -> bytes:
    """Return the key of an event without a message id: 16 bytes of its lasting content."""
    return hashlib.sha256(b"body\0" + lasting_content(body)).digest()[:KEY_BYTES]


def same_content(one: bytes, other: bytes) -> bool:
    """Tell whether two bodies differ in nothing but what changes from one transmission to the next.

    One that is no JSON object, such as an element of a batch that was kept though it is unusable, is only like itself.
    """
    if one == other:
        return True
    try:
        return lasting_content(one) == lasting_content(other)
    except (ValueError, AttributeError, RecursionError):
        return False


def lasting_content(body: bytes) -> bytes:
    """Return an event's content in one fixed spelling, without the times of its transmission."""
    payload = json.loads(body.removeprefix(b"\xef\xbb\xbf"))
    lasting = {name: value for name, value in payload.items() if name not in _OF_THE_TRANSPORT}
    return json.dumps(lasting, sort_keys=True, separators=(",", ":")).encode()
