"""What an event costs while the log grows: ``python -m benchmarks.growth --events 20000000 --minutes 10``.

Straight into the SQLite event log, 64 events in each commit, every event new, its person one of 200,000, every one
handled at once; one in a hundred ends otherwise, and one in 100,000 is of a rare account. One line for each step:
processor time for each event to store and to hand out and settle, bytes on the disk, and how long the questions of an
operator's page take: a list, the slowest list with a filter, one message; and for how long one of these held the event
loop at once. At the end, each filter.

The machine's own speed changes meanwhile. So all through a step a part of the same work is done with a new log, which
is empty at the step's beginning. *flat* is what an event costs beside one of that new log, to how that was in the
first step.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import uvloop

from benchmarks.questions import FILTERS, RARE
from benchmarks.session import interruptible, scratch
from benchmarks.storing import store
from enable_with_segment.db.event_log.message_key import key_of_message
from enable_with_segment.db.event_log.records import EventFilter, NewEvent, Settlement
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.db.event_log.states import EventState

_GROUP = 64
_CLAIM = 500
_PEOPLE = 200_000
_RARE_ONE_IN = 100_000
_GROUPS = 10
_ROUND = _GROUPS * _GROUP
_BESIDE = 25
"""One round in so many is done with a new log as well."""
_BODY = b'{"type":"track","event":"Order Completed","properties":{"pad":"' + b"x" * 900 + b'"}}'


@dataclass(frozen=True, slots=True)
class _Cost:
    """Processor time in seconds."""

    events: int = 0
    storing: float = 0.0
    handling: float = 0.0

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(self.events + other.events, self.storing + other.storing, self.handling + other.handling)

    @property
    def each(self) -> float:
        """For one event."""
        return (self.storing + self.handling) / self.events


async def grow(folder: Path, *, events: int, step: int, seconds: float) -> None:
    """Fill a log step by step, until it holds ``events`` or the time is up."""
    log = SqliteEventLog(folder / "events.db")
    chance = random.Random(1)  # noqa: S311  not a secret
    until = time.monotonic() + seconds
    print(
        f"{'events':>11} {'store us':>9} {'handle us':>9} {'bytes':>6} {'list ms':>8} {'filter ms':>9} {'show ms':>8}"
        f" {'held ms':>8} {'new us':>7} {'flat':>5}"
    )
    stored, filtered, at_first = 0, dict[str, _Took](), 0.0
    while stored < events and time.monotonic() < until:
        cost, cost_of_new = _Cost(), _Cost()
        with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
            new = SqliteEventLog(Path(beside) / "events.db")
            for number in range(step // _ROUND):
                cost += await _round(log, chance)
                if number % _BESIDE == 0:
                    cost_of_new += await _round(new, chance)
            await new.close()
        stored += cost.events
        times = cost.each / cost_of_new.each
        at_first = at_first or times
        size = sum(path.stat().st_size for path in folder.iterdir())  # noqa: ASYNC240  nothing else runs
        listed = await _took(lambda: log.search(EventFilter(account="acme")))
        filtered = {name: await _took(partial(log.search, wanted)) for name, wanted in FILTERS.items()}
        (newest,) = await log.find(EventFilter(), limit=1)
        shown = await _took(partial(log.show, newest.message_id or ""))
        print(
            f"{stored:11,} {1e6 * cost.storing / cost.events:9.1f} {1e6 * cost.handling / cost.events:9.1f}"
            f" {size / stored:6.0f}"
            f" {listed.milliseconds:8.2f} {max(took.milliseconds for took in filtered.values()):9.2f}"
            f" {shown.milliseconds:8.2f} {max(took.held for took in (listed, shown, *filtered.values())):8.2f}"
            f" {1e6 * cost_of_new.each:7.1f} {times / at_first:5.2f}",
            flush=True,
        )
    for name, took in filtered.items():
        print(f"{name:46} {took.milliseconds:8.2f} ms, at once {took.held:8.2f} ms")
    await log.close()


async def _round(log: SqliteEventLog, chance: random.Random) -> _Cost:
    """Store some groups of events, and have them handled."""
    began = time.process_time()
    for _ in range(_GROUPS):
        await asyncio.gather(*(store(log, _event(chance)) for _ in range(_GROUP)))
    stored = time.process_time()
    await _handle(log)
    return _Cost(_ROUND, stored - began, time.process_time() - stored)


async def _handle(log: SqliteEventLog) -> None:
    now = datetime.now(UTC) + timedelta(seconds=1)
    while claimed := await log.claim(["acme-crm"], limit=_CLAIM, lease="a", now=now, until=now + timedelta(minutes=1)):
        await log.settle_all([Settlement(event.id, "a", _state_of(event.id), now) for event in claimed])


def _state_of(event_id: int) -> EventState:
    for every, state in (
        (10_000, EventState.DEAD_LETTER),
        (1_000, EventState.SUPPRESSED),
        (100, EventState.UNSUPPORTED),
    ):
        if event_id % every == 0:
            return state
    return EventState.HANDLED


def _event(chance: random.Random) -> NewEvent:
    now = datetime.now(UTC)
    message_id = f"ajs-next-{chance.getrandbits(128):032x}"
    return NewEvent(
        scope="key:1",
        dedupe_key=key_of_message(message_id),
        received_at=now,
        occurred_at=now,
        account="acme" if chance.randrange(_RARE_ONE_IN) else RARE,
        component="acme-crm",
        key_id="1",
        install_id=None,
        message_id=message_id,
        type="track",
        event="Order Completed",
        person_hash=f"{chance.randrange(_PEOPLE):032x}",
        device_hash=None,
        previous_hash=None,
        body=_BODY,
        settings={},
    )


class _Took(NamedTuple):
    """How long a question took, and the longest time in it in which nobody else had a turn of the event loop."""

    milliseconds: float
    held: float


async def _took(ask: Callable[[], Awaitable[object]]) -> _Took:
    longest, at = 0.0, time.perf_counter()

    def note() -> None:
        nonlocal longest, at
        longest, at = max(longest, time.perf_counter() - at), time.perf_counter()

    async def take_turns() -> None:
        while True:
            note()
            await asyncio.sleep(0)

    beside = asyncio.create_task(take_turns())
    await asyncio.sleep(0)
    started = time.perf_counter()
    await ask()
    took = time.perf_counter() - started
    note()
    beside.cancel()
    return _Took(1000 * took, 1000 * longest)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--step", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--folder", type=Path, default=None, help="on a real disk, not tmpfs")
    arguments = parser.parse_args()
    with interruptible(), scratch(arguments.folder) as folder:
        uvloop.run(grow(folder, events=arguments.events, step=arguments.step, seconds=60 * arguments.minutes))


if __name__ == "__main__":
    main()
