"""Reading event times leniently: a bad clock or a strange format never costs an event (contract cases 89-91)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_FRACTION = re.compile(r"(\.\d{6})\d+")
_PLAIN = len("2026-03-02T10:15:42.123456Z")


def parse_timestamp(value: object) -> datetime | None:
    """Read an ISO 8601 time as an aware UTC instant; ``None`` when it is absent or cannot be read.

    A time without an offset counts as UTC; fractions finer than microseconds are cut off. Numbers are not times:
    nothing says whether they would be seconds or milliseconds.
    """
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        text = value.strip()
        parsed = datetime.fromisoformat(text if len(text) <= _PLAIN else _FRACTION.sub(r"\1", text))
        if parsed.tzinfo is UTC:
            return parsed
        return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
