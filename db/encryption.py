"""Authenticated encryption of every stored secret: AES-256-GCM, the key id in the text, the place bound in.

A ciphertext is text of the form ``v1.{key id}.{base64url(nonce + ciphertext + tag)}``. Its associated data names
the table, column and row, so a ciphertext that is moved elsewhere no longer opens.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEY_BYTES = 32
_NONCE_BYTES = 12
_KEY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class EncryptionError(Exception):
    """A secret could not be encrypted or opened. The text never holds a key, a plaintext or a ciphertext."""


class EncryptionKeysInvalid(EncryptionError):
    """``ENCRYPTION_KEYS`` cannot be used; the text says why and how to make one, without repeating its value."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ciphertext lives; bound into it as associated data."""

    table: str
    column: str
    row: str

    def associated_data(self) -> bytes:
        return "\x1f".join((self.table, self.column, self.row)).encode()


class EncryptionKeys:
    """The keys of ``ENCRYPTION_KEYS``: the first encrypts, all of them decrypt.

    The text form is ``{key id}:{base64 of 32 bytes}``, several separated by commas.
    """

    __slots__ = ("_ciphers", "_current")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise EncryptionKeysInvalid(_hint("ENCRYPTION_KEYS is empty"))
        for key_id, key in keys.items():
            if not _KEY_ID.fullmatch(key_id):
                raise EncryptionKeysInvalid(_hint("ENCRYPTION_KEYS holds a key id that is not a-z, 0-9 or '-'"))
            if len(key) != _KEY_BYTES:
                raise EncryptionKeysInvalid(_hint(f"ENCRYPTION_KEYS: key '{key_id}' is not 32 bytes long"))
        self._current = next(iter(keys))
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}

    @classmethod
    def parse(cls, text: str) -> EncryptionKeys:
        """Read the text form.

        Raises:
            EncryptionKeysInvalid: empty, malformed, a key of another length, or a key id used twice.
        """
        keys: dict[str, bytes] = {}
        for position, item in enumerate((part.strip() for part in text.split(",")), start=1):
            key_id, separator, encoded = item.partition(":")
            if not separator:
                raise EncryptionKeysInvalid(_hint(f"ENCRYPTION_KEYS: entry {position} is not 'key id:base64'"))
            try:
                key = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                raise EncryptionKeysInvalid(_hint(f"ENCRYPTION_KEYS: entry {position} is not base64")) from None
            if key_id in keys:
                raise EncryptionKeysInvalid(_hint(f"ENCRYPTION_KEYS: entry {position} repeats a key id"))
            keys[key_id] = key
        return cls(keys)

    @property
    def current_key_id(self) -> str:
        """The id of the key that encrypts."""
        return self._current

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Every key id, the encrypting one first."""
        return tuple(self._ciphers)

    def encrypt(self, plaintext: str, place: Place) -> str:
        """Return the ciphertext text of ``plaintext``, bound to ``place``."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, plaintext.encode(), place.associated_data())
        return f"v1.{self._current}.{base64.urlsafe_b64encode(nonce + sealed).decode().rstrip('=')}"

    def decrypt(self, ciphertext: str, place: Place) -> str:
        """Open a ciphertext of :meth:`encrypt`.

        Raises:
            EncryptionError: unknown form or key id, changed text, or another place than it was made for.
        """
        version, _, rest = ciphertext.partition(".")
        key_id, _, encoded = rest.partition(".")
        if version != "v1" or not encoded:
            raise EncryptionError(f"{place.table}.{place.column}: not a ciphertext of this service")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            known = ", ".join(self._ciphers)
            raise EncryptionError(
                f"{place.table}.{place.column} was encrypted with another key than ENCRYPTION_KEYS holds ({known})"
            )
        try:
            raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], place.associated_data()).decode()
        except (InvalidTag, ValueError):
            raise EncryptionError(f"{place.table}.{place.column}: the ciphertext does not open") from None

    def __repr__(self) -> str:
        return f"EncryptionKeys({', '.join(self._ciphers)})"


def generate_encryption_key(now: datetime | None = None) -> str:
    """Return one new entry for ``ENCRYPTION_KEYS``; the key id holds the day and a random part."""
    day = (now or datetime.now(UTC)).strftime("%Y%m%d")
    return f"k{day}-{secrets.token_hex(2)}:{base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}"


def _hint(problem: str) -> str:
    return f"{problem}. Make one with: enable-with-segment encryption-keys generate"
