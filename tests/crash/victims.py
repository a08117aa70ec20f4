"""What is killed, and how it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Protocol

from tests.crash.cluster import Cluster
from tests.crash.sender import Ledger


class Victim(Protocol):
    """Something that can die."""

    name: str

    async def die(self) -> None:
        """Die at once; return when the next one is there, or on its way."""
        ...


class Process:
    """The service, or a role of it: a server that a nursery replaces when it is dead.

    Args:
        role: ``all``, ``web`` or ``worker``.
        listener: where it listens.
        folder: where its process id is written down.
        environment: the service's settings.
    """

    def __init__(
        self, name: str, role: str, listener: socket.socket, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self._pid_file = folder / f"{name}.pid"
        number = listener.fileno()
        self._nursery = subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, "-m", "tests.crash.nursery", role, str(number), str(self._pid_file)],
            env={**os.environ, **environment},
            pass_fds=[number],
            stderr=None if os.environ.get("CRASH_RIG_LOG") else subprocess.DEVNULL,
        )

    async def born(self) -> None:
        """Wait for the first server."""
        await self._another_than(None)

    async def die(self) -> None:
        killed = self._server()
        while killed is None or not _kill(killed):  # one that could not start is gone, and another one about to be
            await asyncio.sleep(0.01)
            killed = self._server()
        await self._another_than(killed)

    def end(self) -> None:
        """Kill the nursery first, or it would start one more server."""
        self._nursery.kill()
        self._nursery.wait()
        server = self._server()
        if server is not None:
            _kill(server)

    async def _another_than(self, known: int | None) -> None:
        async with asyncio.timeout(60):
            while self._server() == known:  # noqa: ASYNC110  another process writes it down
                await asyncio.sleep(0.01)

    def _server(self) -> int | None:
        try:
            return int(self._pid_file.read_text(encoding="ascii"))
        except FileNotFoundError:
            return None


def _kill(server: int) -> bool:
    """Kill a server; tells whether there was one."""
    try:
        os.kill(server, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class Postgres:
    """The database: killed, cut off from its connections, and restarted, in turns.

    While it is away, deliveries are answered 503; it is only started again when one was. When it is back, the service
    has to find it by itself.
    """

    name = "database"

    def __init__(self, cluster: Cluster, ledger: Ledger) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._ways = cycle((self._killed, self._cut_off, self._restarted))

    async def die(self) -> None:
        await next(self._ways)()
        await self._until_taken_again()

    async def _killed(self) -> None:
        await self._cluster.kill()
        await self._until_refused()
        await self._cluster.start()

    async def _restarted(self) -> None:
        await self._cluster.shut_down()
        await self._until_refused()
        await self._cluster.start()

    async def _cut_off(self) -> None:
        await self._cluster.kill_backend()

    async def _until_refused(self) -> None:
        refused = self._ledger.statuses[503]
        async with asyncio.timeout(30):
            while self._ledger.statuses[503] == refused:  # noqa: ASYNC110  another process answers
                await asyncio.sleep(0.01)

    async def _until_taken_again(self) -> None:
        taken = len(self._ledger.acknowledged)
        async with asyncio.timeout(60):
            while len(self._ledger.acknowledged) == taken:  # noqa: ASYNC110  another process answers
                await asyncio.sleep(0.01)
