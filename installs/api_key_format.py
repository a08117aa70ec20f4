"""What an API key looks like, so that people and secret scanners can tell what they have found.

``ews_`` (or ``ewh_`` for a signed Webhooks destination), 34 random letters and digits (more than 200 bits), and six
that are the CRC-32 of everything before them. The checksum protects nothing; it lets a scanner dismiss a lookalike
without asking anybody. There is no colon in a key, so the Basic header of a delivery splits cleanly (contract 5.3).
"""

from __future__ import annotations

import re
import secrets
import string
import zlib

from enable_with_segment.components.partner_call import PartnerFunctionFailed

PREFIX = "ews_"
SIGNED_PREFIX = "ewh_"

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM = 34
_CHECKSUM = 6
_FOREIGN_KEY = re.compile(r"[!-9;-~]{16,256}")


class ApiKeyInvalid(PartnerFunctionFailed):
    """A key that a partner's function made cannot be used; the text says why, without repeating the key."""

    def __init__(self, problem: str) -> None:
        super().__init__("API_KEY_HOOK", problem)


def new_key(prefix: str = PREFIX) -> str:
    """Return a fresh key."""
    begun = prefix + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return begun + checksum(begun)


def new_secret() -> str:
    """Return 40 random letters and digits, for a secret that nobody has to recognise."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM + _CHECKSUM))


def checksum(text: str) -> str:
    """Return the CRC-32 of a text in base 62 (0-9, A-Z, a-z), filled up to six digits from the left."""
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECKSUM):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


def check_foreign_key(key: object) -> str:
    """Return a key that a partner's function made, if a Basic header carries it and nobody guesses it.

    Raises:
        ApiKeyInvalid: not 16 to 256 printable ASCII characters without space and colon, nearly all the same, or with
            the prefix that is for signed deliveries.
    """
    if not isinstance(key, str) or not _FOREIGN_KEY.fullmatch(key) or len(set(key)) < 8:
        raise ApiKeyInvalid("has to return 16 to 256 ASCII characters, hard to guess, no space, no colon")
    if key.startswith(SIGNED_PREFIX):
        raise ApiKeyInvalid(f"must not return a key that begins with {SIGNED_PREFIX}")
    return key
