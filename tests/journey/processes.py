"""The command line as processes of their own: started, waited for, killed, and asked how they ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LONGEST_SECONDS = 60.0


@dataclass(frozen=True)
class Finished:
    """A command that ran to its end."""

    status: int
    output: str
    errors: str


class Running:
    """A command that goes on running, with everything it prints in a file."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._seen = output.tell()
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                _command(arguments),
                env=_only(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_for(self, text: str) -> None:
        """Wait until this process has printed ``text``."""
        deadline = time.monotonic() + _LONGEST_SECONDS
        while text not in (printed := self.printed()):
            if self._process.poll() is not None:
                raise AssertionError(f"it ended with status {self._process.returncode} and printed:\n{printed}")
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


def run_command(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> Finished:
    """Run ``enable-with-segment`` with some arguments to its end."""
    done = subprocess.run(  # noqa: S603 - our own command
        _command(arguments),
        env=_only(environment),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LONGEST_SECONDS,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "oauth_app", *arguments]


def _only(environment: Mapping[str, str]) -> dict[str, str]:
    """Just these settings: nothing that happens to be set on this machine may take part."""
    kept = ("PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT")
    return {name: os.environ[name] for name in kept if name in os.environ} | dict(environment)
