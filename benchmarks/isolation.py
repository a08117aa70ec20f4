"""``python -m benchmarks.isolation``: what a hanging handler, a failing one and a noisy sender cost the others.

Events of ten senders go into a real event log at a steady rate, and a real dispatcher hands them to two handlers.
What is measured is the other handler, or the nine other senders: the time from the commit of an event to its call.
The disturbance is compared with the same run without it, in turns. Everything shares one process and one core.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import statistics
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.session import interruptible, scratch, tell
from benchmarks.storing import store
from enable_with_segment import Event, Subscription
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.message_key import key_of_message
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import NewEvent
from enable_with_segment.db.migrate import migrate
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher

_SENDERS = 10
_NOISY = "install:0"
_TICK_SECONDS = 0.01
_FOLDER = Path("data/bench")


@dataclass
class Run:
    """One measurement."""

    seconds: float
    rate: int
    other: str
    noisy_factor: int
    waits: list[float] = field(default_factory=list)
    sent: dict[str, float] = field(default_factory=dict)
    expected: int = 0

    def p(self, share: float) -> float:
        """Return a quantile of the waits, in milliseconds; events that never came count as endless."""
        waits = sorted([*self.waits, *[float("inf")] * (self.expected - len(self.waits))])
        return waits[min(int(len(waits) * share), len(waits) - 1)] * 1000

    @property
    def handled(self) -> float:
        """How many events a second the others had handled."""
        return len(self.waits) / self.seconds


def _subscription(run: Run) -> Subscription:
    subscription = Subscription("acme-crm")

    @subscription.on("track")
    async def measured(event: Event) -> None:
        sender, _, _ = (event.message_id or "").partition(" ")
        if run.noisy_factor == 1 or sender != _NOISY:
            run.waits.append(time.perf_counter() - run.sent[event.message_id or ""])
        await asyncio.sleep(0.002)

    @subscription.on("track")
    async def other() -> None:
        if run.other == "hangs":
            await asyncio.Event().wait()
        if run.other == "fails":
            raise ConnectionError("away")

    return subscription


async def _measure(run: Run, folder: Path) -> None:
    database = Database.open(f"sqlite+aiosqlite:///{folder}/control.db")
    await migrate(database, "control")
    log = open_event_log(f"sqlite+aiosqlite:///{folder}/events.db")
    subscription = _subscription(run)
    dispatcher = Dispatcher({subscription.name: subscription}, log, database)
    working = asyncio.create_task(dispatcher.run())
    counter = 0

    async def send(sender: str) -> None:
        nonlocal counter
        counter += 1
        message_id = f"{sender} {counter}"
        run.expected += run.noisy_factor == 1 or sender != _NOISY
        now = datetime.now(UTC)
        body = {"type": "track", "event": "Step", "userId": f"u-{counter % 100}", "messageId": message_id}
        event = NewEvent(
            scope=sender,
            dedupe_key=key_of_message(message_id),
            received_at=now,
            occurred_at=now,
            account=sender,
            component="acme-crm",
            key_id=sender,
            install_id=None,
            message_id=message_id,
            type="track",
            event="Step",
            person_hash=None,
            device_hash=None,
            previous_hash=None,
            body=json.dumps(body).encode(),
            settings={},
        )
        run.sent[message_id] = time.perf_counter()
        await store(log, event)
        run.sent[message_id] = time.perf_counter()
        dispatcher.wake()

    def due(sender: int) -> float:
        factor = run.noisy_factor if f"install:{sender}" == _NOISY else 1
        return run.rate / _SENDERS * factor * _TICK_SECONDS

    owed = [0.0] * _SENDERS
    started = time.perf_counter()
    tick = 0
    while time.perf_counter() - started < run.seconds:
        sends: list[Coroutine[Any, Any, None]] = []
        for sender in range(_SENDERS):
            owed[sender] += due(sender)
            sends += [send(f"install:{sender}") for _ in range(int(owed[sender]))]
            owed[sender] %= 1
        await asyncio.gather(*sends)
        tick += 1
        await asyncio.sleep(max(0.0, started + tick * _TICK_SECONDS - time.perf_counter()))
    await asyncio.sleep(1.0)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await log.close()
    await database.close()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.isolation", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=300, help="events a second of all senders together")
    arguments = parser.parse_args()
    with interruptible():
        _compare(arguments)


def _compare(arguments: argparse.Namespace) -> None:
    logging.disable(logging.CRITICAL)
    gc.collect()  # as the server does when it starts
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    new: Callable[[str, int], Run] = lambda other, factor: Run(arguments.seconds, arguments.rate, other, factor)  # noqa: E731
    scenarios = {
        "undisturbed": ("works", 1),
        "the other handler hangs": ("hangs", 1),
        "the other handler always fails": ("fails", 1),
        "one sender at ten times the rate": ("works", 10),
    }
    runs: dict[str, list[Run]] = {name: [] for name in scenarios}
    for number in range(arguments.rounds):
        for name, (other, factor) in scenarios.items():
            run = new(other, factor)
            with scratch(_FOLDER) as folder:
                asyncio.run(_measure(run, folder))
            runs[name].append(run)
            tell(f"round {number + 1} of {arguments.rounds}: {name}, p99 {run.p(0.99):.1f} ms")
    print(f"{'':36}{'handled/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'p99 ratio':>11}{'rate ratio':>12}")
    yardstick = runs["undisturbed"]
    p99 = statistics.median(run.p(0.99) for run in yardstick)
    for name, measured in runs.items():
        share = (_SENDERS - 1) / _SENDERS if scenarios[name][1] > 1 else 1.0
        rate = statistics.median(run.handled for run in measured)
        expected = statistics.median(run.handled for run in yardstick) * share
        ours = statistics.median(run.p(0.99) for run in measured)
        p50 = statistics.median(run.p(0.5) for run in measured)
        print(f"{name:36}{rate:10.0f}{p50:9.1f}{ours:9.1f}{ours / p99:11.2f}{rate / expected:12.2f}")


if __name__ == "__main__":
    main()
