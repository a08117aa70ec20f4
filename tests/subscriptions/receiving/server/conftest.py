"""The whole service behind its own HTTP server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.subscriptions.receiving.server.door import Door, open_door


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """The whole service behind its own HTTP server."""
    async with open_door(tmp_path) as opened:
        yield opened
