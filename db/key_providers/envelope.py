"""Data keys that are configured in wrapped form and opened by a key service (envelope encryption).

Whoever reads the configuration and the database together still cannot open a secret without the service's consent.
"""

from __future__ import annotations

from collections.abc import Mapping

from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.key_providers.provider import KeyProvider
from enable_with_segment.db.key_providers.wrapping_service import WrappingService


class EnvelopeKeys:
    """Another provider's keys, each of them wrapped.

    An opened key is kept for the life of the process: the key service may be away as long as no process starts.
    """

    def __init__(self, inner: KeyProvider, service: WrappingService) -> None:
        self._inner = inner
        self._service = service
        self._opened: dict[tuple[str, bytes], bytes] = {}

    @property
    def setting(self) -> str:
        return self._inner.setting

    async def configured(self) -> Mapping[str, bytes]:
        return await self._inner.configured()

    async def load(self) -> EncryptionKeys:
        keys: dict[str, bytes] = {}
        for key_id, wrapped in (await self.configured()).items():
            remembered = (key_id, wrapped)
            if remembered not in self._opened:
                self._opened[remembered] = await self._service.unwrap(key_id, wrapped)
            keys[key_id] = self._opened[remembered]
        return EncryptionKeys(keys, setting=self.setting)
