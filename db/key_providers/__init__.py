"""Where encryption keys come from: the environment, a file, or either of them wrapped by a key service."""

from enable_with_segment.db.key_providers.envelope import EnvelopeKeys
from enable_with_segment.db.key_providers.environment import EnvironmentKeys
from enable_with_segment.db.key_providers.file import KeyFile
from enable_with_segment.db.key_providers.provider import KeyProvider, KeysUnavailable
from enable_with_segment.db.key_providers.wrapping_service import WrappingService

__all__ = ["EnvelopeKeys", "EnvironmentKeys", "KeyFile", "KeyProvider", "KeysUnavailable", "WrappingService"]
