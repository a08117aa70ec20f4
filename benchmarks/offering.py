"""A load generator by the clock: deliveries are due at fixed moments, whether or not earlier ones were answered.

Where every connection waits for an answer, another one is opened, up to ``--connections``. Every wait counts, for a
connection as for an answer, from the moment that the schedule names. Run as a process of its own, on a core of its own;
it prints one JSON object, and writes the messages that were acknowledged into the ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.answers import Answers
from benchmarks.load import Load

_TICK_SECONDS = 0.002
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
        """Take note of an answer, or of a connection that ended without one."""
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
        self._rests_since = self._rested = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._rests_since = time.perf_counter()
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
        self._rested = time.perf_counter() - self._rests_since
        self._offered.sent += 1
        self._offered.sent_in_time += time.perf_counter() < self._offered.until
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        answer = self._offered.answers.read(self._received)
        if answer is None or self._scheduled is None:
            return
        self._received = b""
        self._rests_since = time.perf_counter()
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
            status = f"cut off after a rest of {self._rested:.0f} s"
            self._offered.answered(status, self._message_id, self._scheduled)
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


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offering", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--rate", type=float, required=True, help="deliveries a second")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--connections", type=int, default=8_000, help="the most that are opened")
    parser.add_argument("--ledger", type=Path, required=True)
    arguments = parser.parse_args()
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
        "cut_off": sum(count for status, count in offered.statuses.items() if status.startswith("cut off")),
        "opened": offered.opened,
        "most_due": offered.most_due,
        "busy": busy,
        "longest_pause": offered.longest_pause,
    }
    arguments.ledger.write_text("\n".join(offered.acknowledged), encoding="ascii")
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
