"""``python -m benchmarks.overload``: what the service does with three times the load that it can take.

First it is measured what is taken when each connection waits for its answers (``benchmarks/load.py``). Then deliveries
are sent by the clock (``benchmarks/offering.py``), three times as many a second, whether or not earlier ones were
answered; all of them from one customer, and another one sends twenty a second meanwhile. After that the service is
asked once more what it takes, as at first.

The server has one core and the generator another. Where the generator cannot send three times as much as the service
takes, the service is given a slower disk (``--slow-fsync-ms``); how many were really offered is in the table.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import postgres, servers
from benchmarks.session import interruptible, scratch, tell
from enable_with_segment.db.event_log.opening import open_event_log

_WAITING = 512
"""Connections that wait for their answers, when it is measured what is taken: enough to fill each commit."""
_QUIET_RATE = 20.0
"""What the other customer sends, by the second."""
_QUIET_CONNECTIONS = 200


@dataclass
class Memory:
    """What the server holds, looked at twenty times a second, in bytes."""

    server: servers.Server
    samples: list[tuple[float, int]] = field(default_factory=list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look while the block lasts."""
        stopped = threading.Event()
        watching = threading.Thread(target=self._watch, args=(stopped,))
        watching.start()
        try:
            yield
        finally:
            stopped.set()
            watching.join()

    def _watch(self, stopped: threading.Event) -> None:
        while not stopped.wait(0.05):
            self.samples.append((time.monotonic(), self.server.memory_bytes()))

    def slope(self) -> float:
        """How much it grew by the second over the last half."""
        half = self.samples[len(self.samples) // 2 :]
        if len(half) < 2:
            return 0.0
        return statistics.linear_regression([at for at, _ in half], [held for _, held in half]).slope


def _overload(server: servers.Server, arguments: argparse.Namespace, rate: float, ledger: Path) -> list[dict[str, Any]]:
    """Return what became of a loud customer's deliveries and of a quiet one's, which are sent at the same time."""
    seconds, most = arguments.seconds, arguments.connections
    quiet_ledger = ledger.with_name("quiet-ledger")
    loud = _offering(server.port, server.key, ledger, rate=rate, seconds=seconds, connections=most)
    quiet = _offering(
        server.port, server.quiet_key, quiet_ledger, rate=_QUIET_RATE, seconds=seconds, connections=_QUIET_CONNECTIONS
    )
    return servers.outcomes_of(loud, quiet, core=servers.cores()[1])


def _offering(port: int, key: str, ledger: Path, *, rate: float, seconds: float, connections: int) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.offering", "--port", str(port), "--key", key]
    command += ["--rate", str(rate), "--seconds", str(seconds)]
    return [*command, "--connections", str(connections), "--ledger", str(ledger)]


async def _missing(url: str, message_ids: list[str]) -> int:
    log = open_event_log(url)
    try:
        missing = 0
        for start in range(0, len(message_ids), 5_000):
            missing += len((await log.prove(message_ids[start : start + 5_000])).missing)
        return missing
    finally:
        await log.close()


def _measure(arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> bool:
    """Measure and print; tells whether every promise was kept."""
    slow_fsync_ms = arguments.slow_fsync_ms
    database_url = None
    if arguments.engine == "postgresql":
        tell("starting a PostgreSQL")
        database_url = postgres.start(stack).new_database("overload", slow_fsync_ms=slow_fsync_ms)
        slow_fsync_ms = 0.0
    tell("starting the service")
    server = stack.enter_context(
        servers.service(
            folder, database_url=database_url, role=arguments.role, slow_fsync_ms=slow_fsync_ms, with_quiet=True
        )
    )
    servers.load(server, seconds=1.0, connections=_WAITING)
    before = servers.load(server, seconds=4.0, connections=_WAITING)
    rate = before["rate"] * arguments.factor
    tell(f"it takes {before['rate']:.0f} events/s; offering {rate:.0f} a second for {arguments.seconds:.0f} s")
    memory = Memory(server)
    at_start = server.memory_bytes()
    with memory.watched():
        outcome, quiet = _overload(server, arguments, rate, folder / "ledger")
    at_end = server.memory_bytes()
    tell("asking what it takes now, and whether anything is missing")
    after = servers.load(server, seconds=4.0, connections=_WAITING)
    acknowledged = (folder / "ledger").read_text(encoding="ascii").split()
    acknowledged += (folder / "quiet-ledger").read_text(encoding="ascii").split()
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
        ("answers", _statuses(outcome)),
        ("taken meanwhile", f"{len(acknowledged) / arguments.seconds:.0f} events/s"),
        (
            "slowest answer",
            f"{outcome['slowest_seconds']:.2f} s (p99 {outcome['p99_seconds']:.2f} s; "
            f"slowest 2xx {outcome['slowest_taken_seconds']:.2f} s)",
        ),
        (
            "answers over 5 s",
            f"{outcome['late']}, and {outcome['never'] + outcome['cut_off']} never answered",
        ),
        (
            "a quiet customer beside it",
            f"{_statuses(quiet)}; p99 {quiet['p99_seconds']:.2f} s, slowest {quiet['slowest_seconds']:.2f} s",
        ),
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
    return not (missing or outcome["late"] or outcome["never"] or outcome["cut_off"])


def _statuses(outcome: dict[str, Any]) -> str:
    return ", ".join(f"{status}: {count}" for status, count in sorted(outcome["statuses"].items()))


def main() -> None:
    """Run from the command line. The exit status is 1 when an answer came late or never, or an event is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--factor", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=8_000, help="the most that are opened")
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--slow-fsync-ms", type=float, default=0.0, help="added to each flush of the event log")
    parser.add_argument("--role", choices=("web", "all"), default="all")
    parser.add_argument("--folder", type=Path, default=Path("data/bench"), help="on a real disk, not tmpfs")
    arguments = parser.parse_args()
    with interruptible(), scratch(arguments.folder) as folder, ExitStack() as stack:
        is_kept = _measure(arguments, folder, stack)
    raise SystemExit(0 if is_kept else 1)


if __name__ == "__main__":
    main()
