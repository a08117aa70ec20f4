"""``python -m benchmarks.overload``: what the service does with three times the load that it can take.

First it is measured what is taken when each connection waits for its answers (``benchmarks/load.py``). Then deliveries
are sent by the clock, three times as many a second, whether or not earlier ones were answered: where every connection
waits for an answer, another one is opened, up to ``--connections``. Every wait counts, for a connection as for an
answer, from the moment that the schedule names. After that the service is asked once more what it takes, as at first.

The server has one core and the generator another. Where the generator cannot send three times as much as the service
takes, the service is given a slower disk (``--slow-fsync-ms``); how many were really offered is in the table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

from benchmarks import postgres, servers
from benchmarks.answers import Answers
from benchmarks.load import Load
from db.event_log.opening import open_event_log

_TICK_SECONDS = 0.002
_WAITING = 512
"""Connections that wait for their answers, when it is measured what is taken: enough to fill each commit."""
_LATE_SECONDS = 5.0
"""How long Segment waits for an answer (contract 5.7)."""


@dataclass
class Offered:
    """What was to be sent, and what came of it."""

    load: Load
    rate: float
    seconds: float
    connections: int
    due: deque[float] = field(default_factory=deque)
    opened: int = 0
    opening: set[asyncio.Task[None]] = field(default_factory=set)
    free: list[_Connection] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    sent_in_time: int = 0
    most_due: int = 0
    longest_pause: float = 0.0
    until: float = 0.0
    answers: Answers = field(default_factory=Answers)

    def send_due(self) -> None:
        """Give what is due to the connections that wait for nothing, and open others for the rest."""
        self.most_due = max(self.most_due, len(self.due))
        while self.due and self.free:
            connection = self.free.pop()
            if connection.is_open:
                connection.send(self.due.popleft())
        for _ in range(min(len(self.due) - len(self.opening), self.connections - self.opened)):
            self.opened += 1
            task = asyncio.create_task(self._open())
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Connection(self), self.load.host, self.load.port)
        except OSError:
            self.statuses["refused"] += 1
            self.opened -= 1

    def answered(self, status: str, message_id: str, scheduled: float) -> None:
        """Take note of an answer, or of a connection that was cut off."""
        wait = time.perf_counter() - scheduled
        self.statuses[status] += 1
        self.waits.append(wait)
        if status.startswith("2"):
            self.taken.append(wait)
            self.acknowledged.append(message_id)


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one delivery on its way."""

    def __init__(self, offered: Offered) -> None:
        self._offered = offered
        self._received = b""
        self._scheduled: float | None = None
        self._message_id = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._offered.free.append(self)
        self._offered.send_due()

    @property
    def is_open(self) -> bool:
        """Whether it may be used: the server closes what was idle for long."""
        return not self._transport.is_closing()

    def send(self, scheduled: float) -> None:
        """Send the next event, which was due at ``scheduled``."""
        self._message_id, request = self._offered.load.next_request()
        self._scheduled = scheduled
        self._offered.sent += 1
        self._offered.sent_in_time += time.perf_counter() < self._offered.until
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        answer = self._offered.answers.read(self._received)
        if answer is None or self._scheduled is None:
            return
        self._received = b""
        scheduled, self._scheduled = self._scheduled, None
        self._offered.answered(str(answer.status), self._message_id, scheduled)
        if answer.stays_open:
            self._offered.free.append(self)
            self._offered.send_due()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._offered.opened -= 1
        if self in self._offered.free:
            self._offered.free.remove(self)
        if self._scheduled is not None:
            self._offered.answered("cut off", self._message_id, self._scheduled)
            self._scheduled = None


async def offer(offered: Offered) -> None:
    """Send by the clock, and then wait for what is still to be answered."""
    started = time.perf_counter()
    offered.until = started + offered.seconds
    scheduled = 0
    last = started
    while (now := time.perf_counter()) < offered.until:
        offered.longest_pause, last = max(offered.longest_pause, now - last), now
        while scheduled < (now - started) * offered.rate:
            offered.due.append(started + scheduled / offered.rate)
            scheduled += 1
        offered.send_due()
        await asyncio.sleep(_TICK_SECONDS)
    ends = time.perf_counter() + 30
    while (offered.due or len(offered.waits) < offered.sent) and time.perf_counter() < ends:
        offered.send_due()
        await asyncio.sleep(0.01)


def _generate(arguments: argparse.Namespace) -> None:
    """Be the generator: send, and print what came of it."""
    run = f"{time.time_ns():x}"
    load = Load("127.0.0.1", arguments.port, "/subscriptions/acme-crm", arguments.key, run, pad="x" * 620)
    offered = Offered(load, arguments.rate, arguments.seconds, arguments.connections)
    uvloop.run(offer(offered))
    busy = time.process_time() / arguments.seconds
    never = len(offered.due) + offered.sent - len(offered.waits)
    waits, taken = sorted(offered.waits), sorted(offered.taken)
    outcome = {
        "offered_rate": offered.sent_in_time / arguments.seconds,
        "statuses": dict(offered.statuses),
        "slowest_seconds": waits[-1] if waits else 0.0,
        "p99_seconds": waits[len(waits) * 99 // 100] if waits else 0.0,
        "slowest_taken_seconds": taken[-1] if taken else 0.0,
        "late": sum(wait > _LATE_SECONDS for wait in waits),
        "never": never,
        "opened": offered.opened,
        "most_due": offered.most_due,
        "busy": busy,
        "longest_pause": offered.longest_pause,
    }
    arguments.ledger.write_text("\n".join(offered.acknowledged), encoding="ascii")
    print(json.dumps(outcome))


@dataclass
class Memory:
    """What the server holds, looked at twenty times a second, in bytes."""

    server: servers.Server
    samples: list[tuple[float, int]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look until told to stop."""
        while not self.stopped.wait(0.05):
            self.samples.append((time.monotonic(), self.server.memory_bytes()))

    def slope(self) -> float:
        """How much it grew by the second over the last half."""
        half = self.samples[len(self.samples) // 2 :]
        if len(half) < 2:
            return 0.0
        return statistics.linear_regression([at for at, _ in half], [held for _, held in half]).slope


def _overload(server: servers.Server, arguments: argparse.Namespace, rate: float, ledger: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.overload", "--generate", "--port", str(server.port)]
    command += ["--key", server.key, "--rate", str(rate), "--seconds", str(arguments.seconds)]
    command += ["--connections", str(arguments.connections), "--ledger", str(ledger)]
    core = servers.cores()[1]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, {core})
    )
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


async def _missing(url: str, message_ids: list[str]) -> int:
    log = open_event_log(url)
    try:
        missing = 0
        for start in range(0, len(message_ids), 5_000):
            missing += len((await log.prove(message_ids[start : start + 5_000])).missing)
        return missing
    finally:
        await log.close()


def main() -> None:
    """Run from the command line. The exit status is 1 when an answer came late or an event is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--factor", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=8_000, help="the most that are opened")
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--slow-fsync-ms", type=float, default=0.0, help="added to each flush of the event log")
    parser.add_argument("--role", choices=("web", "all"), default="all")
    parser.add_argument("--folder", type=Path, default=Path("data/bench"), help="on a real disk, not tmpfs")
    for name, kind in (("port", int), ("key", str), ("rate", float), ("ledger", Path)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--generate", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.generate:
        _generate(arguments)
        return
    folder: Path = (arguments.folder / "overload").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    slow_fsync_ms = arguments.slow_fsync_ms
    with ExitStack() as stack:
        database_url = None
        if arguments.engine == "postgresql":
            database_url = postgres.start(stack).new_database("overload", slow_fsync_ms=slow_fsync_ms)
            slow_fsync_ms = 0.0
        server = stack.enter_context(
            servers.service(folder, database_url=database_url, role=arguments.role, slow_fsync_ms=slow_fsync_ms)
        )
        servers.load(server, seconds=1.0, connections=_WAITING)
        before = servers.load(server, seconds=4.0, connections=_WAITING)
        memory = Memory(server)
        at_start = server.memory_bytes()
        watching = threading.Thread(target=memory.watch)
        watching.start()
        outcome = _overload(server, arguments, before["rate"] * arguments.factor, folder / "ledger")
        memory.stopped.set()
        watching.join()
        at_end = server.memory_bytes()
        after = servers.load(server, seconds=4.0, connections=_WAITING)
        acknowledged = (folder / "ledger").read_text(encoding="ascii").split()
        missing = asyncio.run(_missing(database_url or f"sqlite+aiosqlite:///{folder}/events.db", acknowledged))
    peak = max(held for _, held in memory.samples)
    mib = 1024 * 1024
    rows = (
        ("taken before, closed loop", f"{before['rate']:.0f} events/s"),
        (
            "offered, open loop",
            f"{outcome['offered_rate']:.0f} a second for {arguments.seconds:.0f} s, "
            f"{outcome['offered_rate'] / before['rate']:.1f} times as many (wanted: {arguments.factor:.1f})",
        ),
        (
            "generator",
            f"{outcome['opened']} connections; most deliveries that waited for one: {outcome['most_due']}; "
            f"its own longest pause {outcome['longest_pause']:.2f} s; {outcome['busy']:.0%} of its core",
        ),
        ("answers", ", ".join(f"{status}: {count}" for status, count in sorted(outcome["statuses"].items()))),
        ("taken meanwhile", f"{len(acknowledged) / arguments.seconds:.0f} events/s"),
        (
            "slowest answer",
            f"{outcome['slowest_seconds']:.2f} s (p99 {outcome['p99_seconds']:.2f} s; "
            f"slowest 2xx {outcome['slowest_taken_seconds']:.2f} s)",
        ),
        ("answers over 5 s", f"{outcome['late']}, and {outcome['never']} never answered"),
        (
            "memory",
            f"{at_start / mib:.0f} MiB before, {peak / mib:.0f} at most, {at_end / mib:.0f} after; "
            f"{memory.slope() / mib:+.2f} MiB/s in the second half",
        ),
        ("acknowledged and missing", f"{missing} of {len(acknowledged)}"),
        ("taken afterwards, closed loop", f"{after['rate']:.0f} events/s"),
    )
    for name, value in rows:
        print(f"{name:32}{value}")
    shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(1 if missing or outcome["late"] or outcome["never"] else 0)


if __name__ == "__main__":
    main()
