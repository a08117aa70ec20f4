"""The crash rig of the tests, for as long as asked: ``python -m benchmarks.crash --kills 500 --engine postgresql``.

Only processes are killed here, never the machine's power: what the disk keeps of a flush is the disk's promise.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from benchmarks.session import interruptible, scratch
from tests.crash.rig import Report, Rig
from tests.crash.sender import Sender

_ALL = {"sqlite": ("service",), "postgresql": ("service", "dispatcher", "database")}


def main() -> None:
    """Run from the command line. The exit status is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--engine", choices=tuple(_ALL), default="sqlite")
    parser.add_argument("--victim", choices=("service", "dispatcher", "database", "all"), default="all")
    parser.add_argument("--clock-jumps", action="store_true", help="move the wall clock by up to two days, too")
    parser.add_argument("--minutes", type=float, default=None, help="kill no more after so long")
    parser.add_argument("--seed", type=int, default=time.time_ns())
    parser.add_argument("--folder", type=Path, default=None, help="on a real disk, not tmpfs")
    arguments = parser.parse_args()
    victims = _ALL[arguments.engine]
    if arguments.victim != "all":
        if arguments.victim not in victims:
            parser.error(f"over {arguments.engine} the victim can only be {' or '.join(victims)}")
        victims = (arguments.victim,)
    started = time.monotonic()
    with interruptible(), scratch(arguments.folder) as folder:
        rig = Rig(
            folder,
            engine=arguments.engine,
            victims=victims,
            seed=arguments.seed,
            moves_clock=arguments.clock_jumps,
        )
        seconds = None if arguments.minutes is None else arguments.minutes * 60
        report = asyncio.run(rig.run(arguments.kills, seconds=seconds, progress=_show))
    _summarise(report, arguments, time.monotonic() - started)
    raise SystemExit(0 if report.is_clean else 1)


def _show(kills: int, sender: Sender) -> None:
    ledger = sender.ledger
    line = f"{kills} kills, {len(ledger.acknowledged)} acknowledged, {ledger.statuses[503]} answered 503"
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()
    elif kills % 50 == 0:
        print(line, file=sys.stderr, flush=True)


def _summarise(report: Report, arguments: argparse.Namespace, seconds: float) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    killed = ", ".join(f"{name} {count}" for name, count in sorted(report.kills.items()))
    clock = ", the clock moved before each" if arguments.clock_jumps else ""
    rows = (
        ("engine, seed", f"{arguments.engine}, {arguments.seed}"),
        ("kills", f"{report.kills.total()} ({killed}){clock}, in {seconds:.0f} s"),
        ("acknowledged", f"{report.acknowledged}"),
        ("answers", ", ".join(f"{status}: {count}" for status, count in sorted(report.statuses.items()))),
        ("deliveries cut off, sent again", f"{report.cut_off}"),
        ("acknowledged and missing", f"{len(report.missing)}"),
        ("acknowledged and unhandled", f"{len(report.unhandled)}"),
        ("effects that never came", f"{report.without_effect}"),
        ("effects that came twice", f"{report.effects_twice}"),
        ("stored twice", f"{report.stored_twice}"),
        ("handed out again", f"{report.called_again}, which is allowed: the effect has a key"),
        ("answers that were wrong", f"{report.wrong or 0}"),
        ("", "every promise kept" if report.is_clean else "A PROMISE WAS BROKEN"),
    )
    for name, value in rows:
        print(f"{name:32}{value}")


if __name__ == "__main__":
    main()
