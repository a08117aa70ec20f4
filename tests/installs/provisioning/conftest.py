"""A stage on both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.api_keys import ApiKeys
from tests.installs.provisioning.stage import Stage


@pytest.fixture
async def stage(database: Database, encryption: EncryptionKeys, api_keys: ApiKeys) -> AsyncIterator[Stage]:
    made = Stage(database, encryption, api_keys)
    yield made
    await made.close()
