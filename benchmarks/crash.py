"""The crash rig of the tests, for as long as asked: ``python -m benchmarks.crash --kills 500``.

Only a process is killed here, never the machine's power: what the disk keeps of a flush is the disk's promise.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.crash.rig import Rig


def main() -> None:
    """Run from the command line. The exit status is 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    parser.add_argument("--folder", type=Path, default=None, help="on a real disk, not tmpfs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        report = asyncio.run(Rig(Path(folder), seed=arguments.seed).run(arguments.kills))
    print(
        f"seed {arguments.seed}: {report.kills} kills, {report.acknowledged} events acknowledged; "
        f"{len(report.missing)} missing, {len(report.never_seen_by_handler)} never handled, "
        f"{report.stored_twice} stored twice, {report.handled_twice} handled more than once, "
        f"{len(report.wrong_answers)} answers that would have lost an event"
    )
    lost = report.missing or report.never_seen_by_handler or report.stored_twice or report.wrong_answers
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main()
