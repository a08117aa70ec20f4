"""Showing an event's body without what it says of a person: structure and kinds stay, values are masked."""

from __future__ import annotations

import json
from typing import Any

_MASK = "•••"
_SHOWN = frozenset({"type", "event", "messageId", "timestamp", "sentAt", "receivedAt", "originalTimestamp", "version"})
_MOST_CHARACTERS = 20_000


def masked(body: bytes) -> str:
    """Return the body as indented JSON with every value masked that is not the event's own frame."""
    parsed = _parsed(body)
    if not isinstance(parsed, dict):
        return _MASK
    return _indented({key: value if _is_frame(key, value) else _mask(value) for key, value in parsed.items()})


def in_full(body: bytes) -> str:
    """Return the body as indented JSON, or as it is if it is none."""
    parsed = _parsed(body)
    return body.decode("utf-8", "replace")[:_MOST_CHARACTERS] if parsed is None else _indented(parsed)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _is_frame(key: str, value: object) -> bool:
    return key in _SHOWN and isinstance(value, str | int | float)


def _mask(value: object) -> object:
    if isinstance(value, dict):
        return {key: _mask(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mask(item) for item in value]
    return value if value is None or isinstance(value, bool) else _MASK


def _indented(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)[:_MOST_CHARACTERS]
