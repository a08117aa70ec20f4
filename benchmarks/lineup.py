"""Who takes part in ``make bench``: each contender says how it is measured."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks import postgres, servers
from benchmarks.session import tell

Outcome: TypeAlias = dict[str, Any]
Measure: TypeAlias = Callable[[Path, "Effort", Callable[[], None]], Generator[Outcome, None, None]]
"""Yields an outcome for each turn; before each it calls what it is given, so that the yardstick has a turn as well."""
Start: TypeAlias = Callable[[Path], AbstractContextManager[servers.Server]]

YARDSTICK = "bare_starlette"
DISPATCHING = "this service, SQLite, dispatching in batches"


@dataclass(frozen=True, slots=True)
class Effort:
    """How long each measurement lasts, over how many connections, and how many turns a server has once it is started.

    A server that was just started is slower: its caches and its files have to grow first. So it is warmed up.
    """

    seconds: float
    connections: int
    turns: int
    warm_up_seconds: float


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the table."""

    name: str
    measure: Measure


def contenders(stack: ExitStack, folder: Path, *, only: str) -> Iterator[Contender]:
    """Name the contenders whose name holds ``only``, each once; what they need is set up for them alone."""
    rows: list[tuple[str, Callable[[], Measure | None]]] = [
        ("raw ASGI, 202 and nothing else", lambda: _loaded(_asgi("bare_asgi"))),
        ("Starlette, parses the JSON", lambda: _loaded(_asgi("parsing_starlette"))),
        ("this service, SQLite, receiving", lambda: _loaded(_service("web"))),
        ("this service, SQLite, receiving and dispatching", lambda: _loaded(_service("all"))),
        (DISPATCHING, lambda: _dispatching),
        ("this service, SQLite, 2 ms slower fsync", lambda: _loaded(_service("web", slow_fsync_ms=2))),
        ("this service, SQLite, 10 ms slower fsync", lambda: _loaded(_service("web", slow_fsync_ms=10))),
        ("this service, PostgreSQL, receiving", lambda: _postgres(stack, "web")),
        ("this service, PostgreSQL, receiving and dispatching", lambda: _postgres(stack, "all")),
        ("this service, PostgreSQL, 2 ms slower fsync", lambda: _postgres(stack, "web", slow_fsync_ms=2)),
        ("this service, PostgreSQL, 10 ms slower fsync", lambda: _postgres(stack, "web", slow_fsync_ms=10)),
        ("FastAPI + SQLModel, a commit for each request", _fastapi),
        ("Express + better-sqlite3, a commit for each request", lambda: _express(folder)),
    ]
    for name, prepare in rows:
        if only not in name:
            continue
        measure = prepare()
        if measure is not None:
            yield Contender(name, measure)


def _loaded(start: Start) -> Measure:
    def measure(folder: Path, effort: Effort, before: Callable[[], None]) -> Generator[Outcome, None, None]:
        with start(folder) as server:
            servers.load(server, seconds=effort.warm_up_seconds, connections=effort.connections)
            for _ in range(effort.turns):
                before()
                yield servers.load(server, seconds=effort.seconds, connections=effort.connections)

    return measure


def _asgi(module: str) -> Start:
    return lambda folder: servers.asgi(module, folder)


def _service(role: str, *, slow_fsync_ms: float = 0) -> Start:
    return lambda folder: servers.service(folder, role=role, slow_fsync_ms=slow_fsync_ms)


def _dispatching(folder: Path, effort: Effort, before: Callable[[], None]) -> Generator[Outcome, None, None]:
    for turn in range(effort.turns):
        before()
        yield servers.dispatching(folder / f"{turn}", seconds=effort.seconds)


def _postgres(stack: ExitStack, role: str, *, slow_fsync_ms: float = 0) -> Measure | None:
    tell("starting a PostgreSQL")
    try:
        server = postgres.start(stack)
    except postgres.PostgresMissing as missing:
        _left_out("PostgreSQL", str(missing))
        return None

    @contextmanager
    def start(folder: Path) -> Iterator[servers.Server]:
        url = server.new_database(f"bench_{role}", slow_fsync_ms=slow_fsync_ms)
        with servers.service(folder, database_url=url, role=role) as service:
            yield service

    return _loaded(start)


def _fastapi() -> Measure | None:
    try:
        import fastapi  # noqa: F401, PLC0415
    except ImportError:
        _left_out("FastAPI + SQLModel", "install the group: uv sync --group bench")
        return None
    return _loaded(_asgi("fastapi_sqlmodel"))


def _express(folder: Path) -> Measure | None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        _left_out("Express + better-sqlite3", "there is no node or npm")
        return None
    tell("installing Express + better-sqlite3")
    place = folder / "node"
    place.mkdir(parents=True, exist_ok=True)
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "express@5", "better-sqlite3@12"]
    try:
        subprocess.run(install, cwd=place, capture_output=True, check=True, timeout=240)  # noqa: S603
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        _left_out("Express + better-sqlite3", "npm could not install them")
        return None

    @contextmanager
    def start(path: Path) -> Iterator[servers.Server]:
        path.mkdir(parents=True, exist_ok=True)
        port = servers.free_port()
        script = place / "express.js"
        shutil.copyfile(Path(__file__).parent / "contenders" / "express.js", script)
        environment = {"BENCH_PORT": str(port), "BENCH_FOLDER": str(path)}
        with servers.started(["node", str(script)], port, environment, path / "express.log") as server:
            yield server

    return _loaded(start)


def _left_out(who: str, why: str) -> None:
    print(f"left out: {who} ({why})")
