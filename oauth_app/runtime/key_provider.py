"""Choosing the provider of encryption keys that the settings name."""

from __future__ import annotations

from pathlib import Path

from enable_with_segment.db.encryption import EncryptionKeys, EncryptionKeysInvalid, new_key
from enable_with_segment.db.key_providers import (
    EnvelopeKeys,
    EnvironmentKeys,
    KeyFile,
    KeyProvider,
    KeysUnavailable,
    WrappingService,
)
from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
from enable_with_segment.oauth_app.runtime.settings import Settings


def key_provider(settings: Settings) -> KeyProvider:
    """Return the configured provider.

    Raises:
        SettingsInvalid: no setting names one; the text says how to make a key.
    """
    provider = _plain_provider(settings)
    service = _wrapping_service(settings)
    return provider if service is None else EnvelopeKeys(provider, service)


async def encryption_keys(settings: Settings) -> EncryptionKeys:
    """Return the configured keys, ready for use.

    Raises:
        SettingsInvalid: there are none, they cannot be used, or the key service does not open them; the text names
            the setting and never its value.
    """
    try:
        return await key_provider(settings).load()
    except (EncryptionKeysInvalid, KeysUnavailable) as problem:
        raise SettingsInvalid([str(problem)]) from None


async def new_configured_key(settings: Settings) -> tuple[str, bytes]:
    """Return a new key in the form in which it is configured: wrapped, if a key service is.

    Raises:
        SettingsInvalid: the key service refuses or does not answer.
    """
    key_id, key = new_key()
    service = _wrapping_service(settings)
    if service is None:
        return key_id, key
    try:
        return key_id, await service.wrap(key_id, key)
    except (EncryptionKeysInvalid, KeysUnavailable) as problem:
        raise SettingsInvalid([str(problem)]) from None


def _wrapping_service(settings: Settings) -> WrappingService | None:
    if settings.encryption_kms_url is None:
        return None
    token = settings.encryption_kms_token
    return WrappingService(settings.encryption_kms_url, None if token is None else token.get_secret_value())


def _plain_provider(settings: Settings) -> KeyProvider:
    if settings.encryption_keys_file is not None:
        return KeyFile(Path(settings.encryption_keys_file))
    if settings.encryption_keys is not None:
        return EnvironmentKeys(settings.encryption_keys.get_secret_value())
    raise SettingsInvalid(
        [
            "ENCRYPTION_KEYS is not set, nor is ENCRYPTION_KEYS_FILE. "
            "Make a key with: enable-with-segment encryption-keys generate"
        ]
    )
