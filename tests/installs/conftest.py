"""A stage on SQLite alone: for long stories whose queries other tests run on PostgreSQL, too."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import service_secrets
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.api_keys import ApiKeys
from tests.installs.provisioning.stage import Stage


@pytest.fixture
async def sqlite_stage(sqlite_database: Database, encryption: EncryptionKeys) -> AsyncIterator[Stage]:
    async with sqlite_database.transaction() as session:
        secret = await service_secrets.ensure(session, encryption, "api_key_lookup", now=utc_now())
    made = Stage(sqlite_database, encryption, ApiKeys(sqlite_database, encryption, secret))
    yield made
    await made.close()
