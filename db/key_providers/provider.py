"""What a key provider is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from enable_with_segment.db.encryption import EncryptionKeys


class KeysUnavailable(Exception):
    """The keys cannot be fetched now; nothing is wrong with them as far as is known. The text names the setting."""


class KeyProvider(Protocol):
    """Resolved once, when a process starts, into :class:`EncryptionKeys`; from then on no secret waits for it."""

    @property
    def setting(self) -> str:
        """The setting that holds the keys or says where they are."""
        ...

    async def configured(self) -> Mapping[str, bytes]:
        """Return the keys as they are configured (wrapped, where a provider wraps them), the encrypting one first.

        Raises:
            EncryptionKeysInvalid: there are none, or they cannot be read; the text names the setting.
        """
        ...

    async def load(self) -> EncryptionKeys:
        """Return the keys, ready for use.

        Raises:
            EncryptionKeysInvalid: as above, or one of them is no key.
            KeysUnavailable: a service that has to open them does not answer.
        """
        ...
