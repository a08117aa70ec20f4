"""``make bench``: one table, measured in one run, each contender in turn and then all over again.

The server is pinned to one core and the load generator to another. Right before each contender's turn the yardstick
has one, for as long; a ratio compares those two, because a machine that is shared changes its speed from one moment to
the next. Ratios mean something, absolute numbers only on this machine at this moment.

Each turn is told on the standard error as it ends, the table is printed on the standard output after the last one, or
when a signal ends it early: of what was measured until then.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from benchmarks import servers
from benchmarks.lineup import DISPATCHING, YARDSTICK, Contender, Effort, Outcome, contenders
from benchmarks.session import interruptible, scratch, tell


class Row:
    """What was measured of a contender, and of the yardstick right before it, in each round."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.outcomes: list[Outcome] = []
        self.yardsticks: list[Outcome] = []

    def median(self, value: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(float(outcome[value] or 0.0) for outcome in self.outcomes)

    def ratios(self) -> list[float]:
        """Return the rate over the yardstick's, by round, the lowest first."""
        pairs = zip(self.outcomes, self.yardsticks, strict=False)  # a turn that was cut short leaves only the latter
        return sorted(outcome["rate"] / yardstick["rate"] for outcome, yardstick in pairs if yardstick["rate"])

    def bad(self) -> int:
        """Return how many answers were no success, and how many connections broke."""
        return sum(
            outcome["broken"]
            + sum(count for status, count in outcome["statuses"].items() if not status.startswith("2"))
            for outcome in self.outcomes
        )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each measurement lasts")
    parser.add_argument("--rounds", type=int, default=2, help="how often each contender is started")
    parser.add_argument("--turns", type=int, default=4, help="measurements after each start; medians are shown")
    parser.add_argument("--warm-up", type=float, default=4.0, help="seconds of load right after each start")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", default="", help="only contenders whose name holds this")
    parser.add_argument("--folder", type=Path, default=Path("data/bench"), help="on a real disk, not tmpfs")
    arguments = parser.parse_args()
    effort = Effort(arguments.seconds, arguments.connections, arguments.turns, arguments.warm_up)
    rows: list[Row] = []
    with interruptible():
        try:
            with scratch(arguments.folder) as folder, ExitStack() as stack:
                _describe(folder, effort)
                tell("setting up")
                rows += [Row(contender) for contender in contenders(stack, folder, only=arguments.only)]
                _measure(stack, rows, folder, effort, arguments.rounds)
        finally:
            _print_table(rows, arguments.rounds * effort.turns)


def _describe(folder: Path, effort: Effort) -> None:
    print(f"fdatasync here: {_fdatasync_ms(folder):.2f} ms (median of 300 writes of 4 KB)")
    server_core, load_core = servers.cores()
    print(
        f"server on core {server_core}, load generator (benchmarks/load.py) on core {load_core}, "
        f"{effort.connections} keep-alive connections, events of about 1 KB"
    )
    if server_core == load_core:
        print("There is only one core: server and load generator share it, and the ratios mean little.")


def _measure(stack: ExitStack, rows: list[Row], folder: Path, effort: Effort, rounds: int) -> None:
    yardstick = stack.enter_context(servers.asgi(YARDSTICK, folder / "yardstick"))
    servers.load(yardstick, seconds=effort.warm_up_seconds, connections=effort.connections)
    done, turns = 0, rounds * effort.turns * len(rows)
    for number in range(rounds):
        for place, row in enumerate(rows):
            tell(f"round {number + 1} of {rounds}: starting {row.contender.name}")
            before = partial(_measure_yardstick, yardstick, row, effort)
            with closing(row.contender.measure(folder / f"{number}-{place}", effort, before)) as outcomes:
                for outcome in outcomes:
                    row.outcomes.append(outcome)
                    done += 1
                    tell(f"{done:4} of {turns}: {outcome['rate']:8.0f}/s beside {row.yardsticks[-1]['rate']:.0f}/s")


def _measure_yardstick(yardstick: servers.Server, row: Row, effort: Effort) -> None:
    row.yardsticks.append(servers.load(yardstick, seconds=effort.seconds, connections=effort.connections))


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


def _print_table(rows: list[Row], turns: int) -> None:
    """Print what was measured; a row with fewer turns than it was to have says so."""
    measured = [row for row in rows if row.outcomes]
    done = sum(len(row.outcomes) for row in rows)
    if done < turns * len(rows) or not rows:
        print(f"INCOMPLETE: {done} of {turns * len(rows)} turns were measured.")
    if not measured:
        return
    everything = [outcome for row in rows for outcome in row.yardsticks]
    print(f"{'':52} {'events/s':>9} {'ratio (lowest-highest)':>24} {'p50 ms':>7} {'p99 ms':>8} {'CPU us':>7}  bad")
    yardstick = {
        value: statistics.median(outcome[value] for outcome in everything)
        for value in everything[0]
        if value in ("rate", "p50_ms", "p99_ms", "cpu_us")
    }
    print(
        f"{'the yardstick: Starlette, 202 and nothing else':52} {yardstick['rate']:9.0f} {'1':>24}"
        f" {yardstick['p50_ms']:7.2f} {yardstick['p99_ms']:8.2f} {yardstick['cpu_us']:7.0f}  0"
    )
    for row in measured:
        ratios = row.ratios()
        ratio = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})"
        times = (
            f"{'':7} {'':8}"
            if row.contender.name == DISPATCHING
            else f"{row.median('p50_ms'):7.2f} {row.median('p99_ms'):8.2f}"
        )
        print(
            f"{row.contender.name:52} {row.median('rate'):9.0f} {ratio:>24} {times} {row.median('cpu_us'):7.0f}"
            f"  {row.bad()}{'' if len(row.outcomes) == turns else f'  ({len(row.outcomes)} of {turns} turns)'}"
        )
    print("ratio: to the yardstick's turn right before it, median of all turns. CPU: of the server process, for each")
    print("event; PostgreSQL's own processes are not counted, and run on whatever core is free.")


if __name__ == "__main__":
    main()
