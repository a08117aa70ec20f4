"""A SQLite control store at the newest schema: migrated once in each process, and written out for each test."""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from enable_with_segment.db.database import Database
from enable_with_segment.db.migrate import migrate


def lay_out(store: Path) -> None:
    """Let there be an empty store at a path, unless there is a store already."""
    if not store.exists():
        store.write_bytes(_migrated())


@functools.cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory(prefix="migrated") as folder:
        store = Path(folder) / "control.db"
        finish(migrate_both(f"sqlite+aiosqlite:///{store}"))
        return store.read_bytes()


async def migrate_both(url: str) -> None:
    """Migrate the stores that have revisions; an event log on SQLite looks after its own files."""
    opened = Database.open(url)
    await migrate(opened, "control")
    if opened.dialect == "postgresql":
        await migrate(opened, "event_log")
    await opened.close()


def finish(work: Coroutine[None, None, None]) -> None:
    """Run a coroutine to its end, whether or not a test's loop is running in this thread."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()
