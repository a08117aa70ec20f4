"""The command line as processes of their own: started, waited for, killed, and asked how they ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.forks import Forked

_LONGEST_SECONDS = 60.0


@dataclass(frozen=True)
class Finished:
    """A command that ran to its end."""

    status: int
    output: str
    errors: str


class Running:
    """A command that goes on running, with everything it prints in a file.

    Args:
        fresh: start it as a user does, in an interpreter of its own, instead of forking it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        folder: Path,
        *,
        fresh: bool = False,
    ) -> None:
        self.log = log
        log.touch()
        self._seen = log.stat().st_size
        self._process = _start(arguments, environment, folder, log, log, fresh=fresh)

    def wait_for(self, text: str) -> None:
        """Wait until this process has printed ``text``."""
        deadline = time.monotonic() + _LONGEST_SECONDS
        while text not in (printed := self.printed()):
            if (status := self._process.poll()) is not None:
                raise AssertionError(f"it ended with status {status} and printed:\n{printed}")
            if time.monotonic() > deadline:
                raise AssertionError(f"it never printed {text!r}, but:\n{printed}")
            time.sleep(0.02)

    def printed(self) -> str:
        """What it has printed so far."""
        return self.log.read_bytes()[self._seen :].decode()

    def kill(self) -> None:
        """End it the hard way: SIGKILL."""
        self._process.kill()
        self._process.wait(_LONGEST_SECONDS)

    def terminate(self) -> int:
        """Ask it to stop with SIGTERM; returns the exit status."""
        self._process.terminate()
        return self._process.wait(_LONGEST_SECONDS)

    def clean_up(self) -> None:
        """Leave nothing of it behind, the processes it started included."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_LONGEST_SECONDS)


async def run_command(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, *, fresh: bool = False
) -> Finished:
    """Run ``enable-with-segment`` with some arguments to its end."""
    with tempfile.TemporaryDirectory() as printed:
        output, errors = Path(printed) / "output", Path(printed) / "errors"
        process = _start(arguments, environment, folder, output, errors, fresh=fresh)
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):
                while (status := process.poll()) is None:  # noqa: ASYNC110  an end has no event
                    await asyncio.sleep(0.01)
        finally:
            process.kill()
        return Finished(status, output.read_text(), errors.read_text())


def _start(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path, errors: Path, *, fresh: bool
) -> subprocess.Popen[bytes] | Forked:
    if not fresh:
        return Forked(arguments, _only(environment), folder, output, errors)
    with output.open("ab") as output_file, errors.open("ab") as errors_file:
        return subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "enable_with_segment", *arguments],
            env=_only(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output_file,
            stderr=errors_file,
            start_new_session=True,
        )


def _only(environment: Mapping[str, str]) -> dict[str, str]:
    """Just these settings: nothing that happens to be set on this machine may take part."""
    kept = ("PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT")
    return {name: os.environ[name] for name in kept if name in os.environ} | dict(environment)
