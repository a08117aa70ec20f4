"""The ``X-Segment-Settings`` header: the destination's custom settings, as the customer entered them (contract 5.3)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from enable_with_segment.components import strict_json

_MAX_LENGTH = 16 * 1024
_MAX_DEPTH = 20


@dataclass(frozen=True, slots=True)
class ReceivedSettings:
    """The header's object, or an empty one together with the reason why it could not be read."""

    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def read_settings_header(value: bytes | None) -> ReceivedSettings:
    """Read base64 of a JSON object, or a JSON object in clear; anything else counts as no settings.

    Both base64 alphabets and missing padding are accepted. Nothing is raised: a delivery is not lost because of its
    settings, unless a required one is missing, and that is decided elsewhere.
    """
    if value is None or not value.strip():
        return ReceivedSettings()
    if len(value) > _MAX_LENGTH:
        return ReceivedSettings(problem="it is too long")
    text = value.strip()
    try:
        decoded = text if text.startswith(b"{") else _base64(text)
        parsed = strict_json.parse(decoded, max_depth=_MAX_DEPTH)
    except binascii.Error:
        return ReceivedSettings(problem="it is neither base64 nor JSON")
    except strict_json.JsonInvalid as error:
        return ReceivedSettings(problem=str(error))
    if not isinstance(parsed, dict):
        return ReceivedSettings(problem="it is not an object")
    return ReceivedSettings(parsed)


def _base64(text: bytes) -> bytes:
    standard = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
