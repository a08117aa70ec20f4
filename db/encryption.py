"""Authenticated encryption of every stored secret: AES-256-GCM, the key id in the text, the place bound in.

A ciphertext is text of the form ``v1.{key id}.{base64url(nonce + ciphertext + tag)}``. Its associated data names
the table, column and row, so a ciphertext that is moved elsewhere no longer opens.
"""

from __future__ import annotations

import base64
import binascii
import copy
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
SETTING = "ENCRYPTION_KEYS"
_NONCE_BYTES = 12
_VERSION = "v1"
_KEY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class EncryptionError(Exception):
    """A secret could not be encrypted or opened. The text never holds a key, a plaintext or a ciphertext."""


class EncryptionKeysInvalid(EncryptionError):
    """The configured keys cannot be used; the text names the setting and says why, without repeating its value."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ciphertext lives; bound into it as associated data."""

    table: str
    column: str
    row: str

    def associated_data(self) -> bytes:
        return "\x1f".join((self.table, self.column, self.row)).encode()


class EncryptionKeys:
    """Keys in memory: the first encrypts, all of them decrypt.

    Args:
        keys: 32 bytes each by their key id, the encrypting one first.
        setting: the setting they come from, for messages.

    Raises:
        EncryptionKeysInvalid: no keys, a key of another length, or a key id that cannot be one.
    """

    __slots__ = ("_ciphers", "_current", "_setting")

    def __init__(self, keys: Mapping[str, bytes], *, setting: str = SETTING) -> None:
        if not keys:
            raise EncryptionKeysInvalid(_hint(f"{setting} is empty"))
        for key_id, key in keys.items():
            if not _KEY_ID.fullmatch(key_id):
                raise EncryptionKeysInvalid(_hint(f"{setting} holds a key id that is not a-z, 0-9 or '-'"))
            if len(key) != KEY_BYTES:
                raise EncryptionKeysInvalid(_hint(f"{setting}: key '{key_id}' is not 32 bytes long"))
        self._setting = setting
        self._current = next(iter(keys))
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}

    @classmethod
    def parse(cls, text: str) -> EncryptionKeys:
        """Read the text form of :func:`parse_key_entries`.

        Raises:
            EncryptionKeysInvalid: empty, malformed, a key of another length, or a key id used twice.
        """
        return cls(parse_key_entries(text))

    @property
    def setting(self) -> str:
        """The setting the keys come from."""
        return self._setting

    @property
    def current_key_id(self) -> str:
        """The id of the key that encrypts."""
        return self._current

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Every key id, the encrypting one first."""
        return tuple(self._ciphers)

    def only_current(self) -> EncryptionKeys:
        """Return keys that hold nothing but the encrypting one: what they open needs no older key."""
        alone = copy.copy(self)
        alone._ciphers = {self._current: self._ciphers[self._current]}
        return alone

    def encrypt(self, plaintext: str, place: Place) -> str:
        """Return the ciphertext text of ``plaintext``, bound to ``place``."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, plaintext.encode(), place.associated_data())
        return f"{ciphertext_prefix(self._current)}{base64.urlsafe_b64encode(nonce + sealed).decode().rstrip('=')}"

    def decrypt(self, ciphertext: str, place: Place) -> str:
        """Open a ciphertext of :meth:`encrypt`.

        Raises:
            EncryptionError: unknown form or key id, changed text, or another place than it was made for.
        """
        version, _, rest = ciphertext.partition(".")
        key_id, _, encoded = rest.partition(".")
        if version != _VERSION or not encoded:
            raise EncryptionError(f"{place.table}.{place.column}: not a ciphertext of this service")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            known = ", ".join(self._ciphers)
            raise EncryptionError(
                f"{place.table}.{place.column} was encrypted with another key than {self._setting} holds ({known})"
            )
        try:
            raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], place.associated_data()).decode()
        except (InvalidTag, ValueError):
            raise EncryptionError(f"{place.table}.{place.column}: the ciphertext does not open") from None

    def __repr__(self) -> str:
        return f"EncryptionKeys({', '.join(self._ciphers)})"


def parse_key_entries(text: str, *, setting: str = SETTING) -> dict[str, bytes]:
    """Read ``{key id}:{base64}``, several separated by commas, in their order. The length of a key is not looked at.

    Raises:
        EncryptionKeysInvalid: empty, malformed, or a key id used twice.
    """
    keys: dict[str, bytes] = {}
    for position, item in enumerate((part.strip() for part in text.split(",")), start=1):
        key_id, separator, encoded = item.partition(":")
        if not separator:
            raise EncryptionKeysInvalid(_hint(f"{setting}: entry {position} is not 'key id:base64'"))
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise EncryptionKeysInvalid(_hint(f"{setting}: entry {position} is not base64")) from None
        if key_id in keys:
            raise EncryptionKeysInvalid(_hint(f"{setting}: entry {position} repeats a key id"))
        keys[key_id] = key
    return keys


def format_key_entries(keys: Mapping[str, bytes]) -> str:
    """Write the text form that :func:`parse_key_entries` reads."""
    return ",".join(f"{key_id}:{base64.b64encode(key).decode()}" for key_id, key in keys.items())


def ciphertext_prefix(key_id: str) -> str:
    """How every ciphertext of a key begins."""
    return f"{_VERSION}.{key_id}."


def new_key(now: datetime | None = None) -> tuple[str, bytes]:
    """Return a key id, made of the day and a random part, and 32 random bytes."""
    day = (now or datetime.now(UTC)).strftime("%Y%m%d")
    return f"k{day}-{secrets.token_hex(2)}", secrets.token_bytes(KEY_BYTES)


def generate_encryption_key(now: datetime | None = None) -> str:
    """Return one new entry for ``ENCRYPTION_KEYS``."""
    key_id, key = new_key(now)
    return format_key_entries({key_id: key})


def _hint(problem: str) -> str:
    return f"{problem}. Make one with: enable-with-segment encryption-keys generate"
