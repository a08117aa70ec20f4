"""Keys in the setting ``ENCRYPTION_KEYS`` itself."""

from __future__ import annotations

from collections.abc import Mapping

from enable_with_segment.db.encryption import SETTING, EncryptionKeys, parse_key_entries


class EnvironmentKeys:
    """Keys given as text, ``id:base64`` separated by commas."""

    setting = SETTING

    def __init__(self, text: str) -> None:
        self._text = text

    async def configured(self) -> Mapping[str, bytes]:
        return parse_key_entries(self._text)

    async def load(self) -> EncryptionKeys:
        return EncryptionKeys(await self.configured())
