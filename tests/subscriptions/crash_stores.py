"""Both stores of a service that dies and comes back, on either engine."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import asyncpg
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import SegmentLimits, StoredEventLog
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import ClaimedEvent
from tests.db.event_log.events import NOON
from tests.subscriptions.mortal_disk import MortalDisk
from tests.subscriptions.mortal_log import Life


class CrashStores(Protocol):
    """Fresh stores, for as long as they are wanted."""

    async def make(self) -> None:
        """Make them."""
        ...

    async def remove(self) -> None:
        """Remove them."""
        ...

    def belong_to(self, life: Life) -> None:
        """Hear no more of a process once it has died."""
        ...

    def open_database(self) -> Database:
        """Open the control store."""
        ...

    def open_log(self) -> StoredEventLog:
        """Open the event log, as a new process does."""
        ...


class SqliteStores:
    """Files. The log begins a new segment every few events, so that most transactions touch several files."""

    def __init__(self, template: Path, disk: MortalDisk | None = None) -> None:
        self._template = template
        self._disk = disk

    async def make(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="crash"))
        shutil.copyfile(self._template, self._folder / "control.db")

    async def remove(self) -> None:
        shutil.rmtree(self._folder)

    def belong_to(self, life: Life) -> None:
        if self._disk is not None:
            self._disk.belong_to(life)

    def open_database(self) -> Database:
        return Database.open(f"sqlite+aiosqlite:///{self._folder}/control.db")

    def open_log(self) -> StoredEventLog:
        return open_event_log(f"sqlite+aiosqlite:///{self._folder}/events.db", segment_limits=SegmentLimits(events=5))


class PostgresStores:
    """A database; leases are rows in it and outlive the process that held them."""

    def __init__(self, socket: str, template: str) -> None:
        self._socket = socket
        self._template = template

    async def make(self) -> None:
        self._name = f"crash_{uuid4().hex}"
        await self._execute(f'CREATE DATABASE "{self._name}" TEMPLATE "{self._template}"')

    async def remove(self) -> None:
        await self._execute(f'DROP DATABASE "{self._name}" WITH (FORCE)')

    def belong_to(self, life: Life) -> None:
        """Leave it to the server, which undoes what a dead process has left unfinished."""

    def open_database(self) -> Database:
        return Database.open(self._url)

    def open_log(self) -> StoredEventLog:
        return open_event_log(self._url)

    @property
    def _url(self) -> str:
        return f"postgresql+asyncpg://postgres@/{self._name}?host={self._socket}"

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(host=self._socket, user="postgres", database="postgres")
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


class StoresMachine(RuleBasedStateMachine):
    """What the machines of crashes have in common: stores that outlive processes, and a clock."""

    new_stores: Callable[[], CrashStores]

    def open_stores(self) -> None:
        """Make empty stores, and look at them without ever dying."""
        self.runner = asyncio.Runner()
        self.stores = type(self).new_stores()
        self.runner.run(self.stores.make())
        self.now = NOON
        self.wrong: list[str] = []  # what handlers saw; raised there, it would only be one more failure to retry
        self.frozen: list[ClaimedEvent] = []
        self.freezes = 0
        self.log = self.stores.open_log()
        self.database = self.stores.open_database()

    def new_frozen_lease(self) -> str:
        """Return the lease of one more worker that is going to be frozen."""
        self.freezes += 1
        return f"frozen {self.freezes}"


def crash_settings(examples: int, *, steps: int) -> settings:
    """Return how a machine of crashes is run: by the same examples each time, or by ``CRASH_EXAMPLES`` random ones.

    A failure is told as it was found, with what reproduces it. Making it smaller would take up to five minutes, which
    is as long as a test may take at all; leave out ``phases`` to have that done.
    """
    random_examples = os.environ.get("CRASH_EXAMPLES")
    return settings(
        max_examples=int(random_examples or examples),
        stateful_step_count=steps,
        derandomize=random_examples is None,
        phases=(Phase.generate,),
        print_blob=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
