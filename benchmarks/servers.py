"""Starting what is measured: one server process on one core, in a folder of its own on a real disk."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.session import held
from enable_with_segment.oauth_app.cli.serve import HTTP, KEEP_ALIVE_SECONDS
from enable_with_segment.subscriptions.receiving.server.accepting import LOOP

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_PYTHON = sys.executable
_UVICORN = ["--no-access-log", "--no-server-header", "--no-proxy-headers", "--log-level", "warning"]
_UVICORN += ["--timeout-keep-alive", str(KEEP_ALIVE_SECONDS)]


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]
    key: str = "ews_none"
    quiet_key: str = "ews_none"
    """Another customer's."""

    def cpu_seconds(self) -> float:
        """The processor time it has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS

    def memory_bytes(self) -> int:
        """The memory it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cores() -> tuple[int, int]:
    """The cores of server and load generator; the same one where there is only one."""
    there = sorted(os.sched_getaffinity(0))
    return there[0], there[-1]


@contextmanager
def started(
    command: list[str], port: int, environment: Mapping[str, str], log: Path, *, key: str = "", quiet_key: str = ""
) -> Iterator[Server]:
    """Run a server pinned to its core while the block lasts."""
    process = None
    try:
        with held(), log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603
                command, env={**os.environ, **environment}, stdout=output, stderr=output, start_new_session=True
            )
        os.sched_setaffinity(process.pid, {cores()[0]})
        _wait_for(port, process, log)
        yield Server(port, process, key, quiet_key)
    finally:
        if process is not None:
            _end(process)


@contextmanager
def asgi(module: str, folder: Path) -> Iterator[Server]:
    """Run a contender under uvicorn, set up as the service sets it up."""
    port = free_port()
    command = [_PYTHON, "-m", "uvicorn", f"benchmarks.contenders.{module}:app", "--port", str(port)]
    command += _UVICORN
    folder.mkdir(parents=True, exist_ok=True)
    with started(command, port, {"BENCH_FOLDER": str(folder)}, folder / f"{module}.log") as server:
        yield server


@contextmanager
def service(
    folder: Path,
    *,
    database_url: str | None = None,
    role: str = "all",
    slow_fsync_ms: float = 0,
    with_quiet: bool = False,
) -> Iterator[Server]:
    """Run the service itself, with handlers that do nothing and a key of its own; another one for a quiet customer."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = service_environment(folder, database_url)
    environment |= {"ENABLE_WITH_SEGMENT_ROLE": role, "BENCH_SLOW_FSYNC_MS": str(slow_fsync_ms)}
    if database_url is not None:
        _cli(["migrate"], environment)
    key = _mint("acme", environment)
    quiet_key = _mint("quiet", environment) if with_quiet else ""
    port = free_port()
    command = [_PYTHON, "-m", "uvicorn", "--factory", "benchmarks.serving:application", "--port", str(port)]
    command += [*_UVICORN, "--backlog", "8192", "--loop", LOOP, "--http", HTTP]
    with started(command, port, environment, folder / "service.log", key=key, quiet_key=quiet_key) as server:
        yield server


def _mint(account: str, environment: Mapping[str, str]) -> str:
    key: str = json.loads(_cli(["api-keys", "create", "--account", account, "--json"], environment))["api_key"]
    return key


def service_environment(folder: Path, database_url: str | None = None) -> dict[str, str]:
    """The settings of the measured service; the encryption key stays the same for one folder."""
    keys = folder / "encryption-keys"
    if not keys.exists():
        keys.write_text(_cli(["encryption-keys", "generate"], {}).strip(), encoding="ascii")
    return {
        "DATABASE_URL": database_url or f"sqlite+aiosqlite:///{folder}/control.db",
        "ENCRYPTION_KEYS": keys.read_text(encoding="ascii"),
        "HANDLERS": "benchmarks.handlers:crm",
        "LOG_LEVEL": "WARNING",
    }


def load(server: Server, *, seconds: float, connections: int = 64) -> dict[str, Any]:
    """Drive a server from the other core; adds its processor time for each accepted event in microseconds."""
    command = [_PYTHON, "-m", "benchmarks.load", "--port", str(server.port), "--seconds", str(seconds)]
    command += ["--connections", str(connections), "--key", server.key or "ews_none"]
    before = server.cpu_seconds()
    (outcome,) = outcomes_of(command, core=cores()[1])
    spent = server.cpu_seconds() - before
    outcome["cpu_us"] = 1e6 * spent / outcome["accepted"] if outcome["accepted"] else None
    return outcome


def dispatching(folder: Path, *, seconds: float) -> dict[str, Any]:
    """Measure how fast a dispatcher empties an SQLite log, on the server's core."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [_PYTHON, "-m", "benchmarks.dispatching", "--url", f"sqlite+aiosqlite:///{folder}/events.db"]
    command += ["--folder", str(folder), "--seconds", str(seconds)]
    (outcome,) = outcomes_of(command, core=cores()[0])
    return outcome


def outcomes_of(*commands: list[str], core: int) -> list[dict[str, Any]]:
    """Run commands beside each other on one core, to their ends; returns the JSON objects that they print."""
    with ExitStack() as stack:
        running = []
        for command in commands:
            with held():
                process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)  # noqa: S603
                stack.callback(process.wait)
                stack.callback(process.kill)
            os.sched_setaffinity(process.pid, {core})
            running.append(process)
        printed = [process.communicate()[0] for process in running]
    for process in running:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return [json.loads(outcome) for outcome in printed]


def _cli(arguments: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(  # noqa: S603
        [_PYTHON, "-m", "enable_with_segment", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    return done.stdout.decode()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"a server ended at its start:\n{log.read_text(encoding='utf-8', errors='replace')}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nobody listens on port {port}; see {log}")
