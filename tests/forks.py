"""Processes that are there in a moment: each is forked from one that has the service imported.

They are processes of their own in every way, with their own environment, folder, output, signals and end. What they
skip is how an interpreter gets to its first line, most of the time that a start takes.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preloaded"])


class Forked:
    """A process that runs the command line, with as much of ``subprocess.Popen`` as is needed here.

    Only the thread that started it may ask for its end.
    """

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path, errors: Path
    ) -> None:
        self._process = FORKS.Process(target=_command_line, args=(arguments, environment, folder, output, errors))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit status of a process that has ended."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Wait for the end; raises ``TimeoutExpired``."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self._process.exitcode

    def kill(self) -> None:
        """Send SIGKILL, if it is still there."""
        self._process.kill()

    def terminate(self) -> None:
        """Send SIGTERM, if it is still there."""
        self._process.terminate()


def _command_line(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path, errors: Path
) -> None:
    """Go on as ``python -m enable_with_segment`` that was started like this."""
    os.setsid()
    os.chdir(folder)
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, output, _APPEND), (2, errors, _APPEND)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["enable-with-segment", *arguments]
    sys.path.insert(0, str(folder))
    from enable_with_segment.oauth_app.cli import main

    main()
