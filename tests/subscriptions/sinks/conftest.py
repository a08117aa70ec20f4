"""Events and the install they come from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from enable_with_segment import Event, InstallContext

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def event(type: str, user_id: str | None = "u-1", *, minutes: int = 0, **fields: Any) -> Event:
    """An event that happened some minutes after noon."""
    raw = {"type": type, "userId": user_id, "timestamp": (NOON + timedelta(minutes=minutes)).isoformat(), **fields}
    return Event({key: value for key, value in raw.items() if value is not None}, received_at=NOON)


@pytest.fixture
def install() -> InstallContext:
    """Whom the events come from."""
    return InstallContext("acme", "acme-crm", "ins_1")
