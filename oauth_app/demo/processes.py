"""The demo's two processes, started and ended by their own ids."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from enable_with_segment.http_client import httpx

_START_SECONDS = 30.0
_STOP_SECONDS = 15.0


class DemoFailed(Exception):
    """A step did not do what it should; the text says what was expected and where to look."""


class Process:
    """One ``enable-with-segment`` command, running beside the demo, with its output in a file."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._arguments = [sys.executable, "-m", "enable_with_segment", *arguments]
        self._environment = {**os.environ, **environment}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, health: str) -> None:
        """Start it and wait until ``health`` answers.

        Raises:
            DemoFailed: it ended, or did not answer in time.
        """
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C ends the demo, and the demo ends these
            )
        async with httpx.AsyncClient() as http:
            for _ in range(int(_START_SECONDS / 0.1)):
                if self._process.returncode is not None:
                    raise DemoFailed(f"the {self.name} ended while it started; its log is {self.log}")
                try:
                    if (await http.get(health, timeout=1)).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)
        raise DemoFailed(f"the {self.name} did not answer within {_START_SECONDS:.0f} s; its log is {self.log}")

    async def stop(self) -> None:
        """End it, if it is still running."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def free_port(preferred: int) -> int:
    """Return the preferred port of this machine if nothing listens there, otherwise some free one."""
    for port in (preferred, 0):
        with socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(bound.getsockname()[1])
    raise DemoFailed("this machine has no free port")
