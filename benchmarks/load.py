"""A load generator: keep-alive connections that each send the next event as soon as the last one was answered.

Run as a process of its own, on a core of its own: ``python -m benchmarks.load --port 8888 --key ews_…``. It prints one
JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import uvloop

from benchmarks.answers import Answers

_BODY = (
    '{{"type":"track","event":"Order Completed","messageId":"{run}-%010d","userId":"cust_%04d",'
    '"timestamp":"2026-03-02T10:15:42.389Z","context":{{"ip":"203.0.113.24","library":{{"name":"analytics.js",'
    '"version":"1.70.0"}},"locale":"de-AT"}},"integrations":{{}},"properties":{{"order_id":"o-%010d",'
    '"revenue":39.95,"currency":"EUR","pad":"{pad}"}},"receivedAt":"2026-03-02T10:15:42.391Z","version":2}}'
)
"""Of one length whatever its numbers are, so that a delivery is made by filling them in."""


@dataclass
class Load:
    """What is sent, and what came back."""

    host: str
    port: int
    path: str
    key: str
    run: str
    pad: str
    body_bytes: int = 0
    until: float = 0.0
    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    ledger: list[str] | None = None
    broken: int = 0
    answers: Answers = field(default_factory=Answers)

    def __post_init__(self) -> None:
        credentials = base64.b64encode(f"{self.key}:".encode()).decode()
        body = _BODY.format(run=self.run, pad=self.pad)
        self.body_bytes = len(body % (0, 0, 0))
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}\r\nAccept: */*\r\nUser-Agent: Segment.io/1.0\r\n"
            f"Content-Type: application/json\r\nAuthorization: Basic {credentials}\r\n"
            f"Content-Length: {self.body_bytes}\r\n\r\n"
        )
        self._request = head.replace("%", "%%").encode() + body.encode()

    def next_request(self) -> tuple[str, bytes]:
        """Return the id of a new event and the bytes of its delivery."""
        self.sent += 1
        return f"{self.run}-{self.sent:010d}", self._request % (self.sent, self.sent % 1000, self.sent)


class _Sender(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: Load, done: asyncio.Future[None]) -> None:
        self._load = load
        self._done = done
        self._received = b""
        self._message_id = ""
        self._started = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        load = self._load
        answer = load.answers.read(self._received)
        if answer is None:
            return
        self._received = b""
        now = time.perf_counter()
        status = answer.status
        load.statuses[status] += 1
        load.latencies.append(now - self._started)
        if load.ledger is not None and 200 <= status < 300:
            load.ledger.append(self._message_id)
        if now >= load.until:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or self._received:
            self._load.broken += 1
        if not self._done.done():
            self._done.set_result(None)

    def _send(self) -> None:
        self._message_id, request = self._load.next_request()
        self._started = time.perf_counter()
        self._transport.write(request)


async def run(load: Load, *, connections: int, seconds: float) -> dict[str, object]:
    """Send for some seconds; returns counts, rate and latencies in milliseconds."""
    loop = asyncio.get_running_loop()
    load.until = time.perf_counter() + seconds
    started = time.perf_counter()
    ends: list[asyncio.Future[None]] = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        ends.append(done)
        try:
            await loop.create_connection(lambda done=done: _Sender(load, done), load.host, load.port)  # type: ignore[misc]
        except OSError:
            load.broken += 1
            done.set_result(None)
    await asyncio.wait(ends, timeout=seconds + 15)
    took = time.perf_counter() - started
    waits = sorted(load.latencies)
    accepted = sum(count for status, count in load.statuses.items() if 200 <= status < 300)
    return {
        "accepted": accepted,
        "rate": accepted / took,
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
        "broken": load.broken,
        "p50_ms": 1000 * waits[len(waits) // 2] if waits else None,
        "p99_ms": 1000 * waits[len(waits) * 99 // 100] if waits else None,
        "max_ms": 1000 * waits[-1] if waits else None,
        "body_bytes": load.body_bytes,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/subscriptions/acme-crm")
    parser.add_argument("--key", default="ews_none")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--pad", type=int, default=620, help="bytes of padding; 620 makes an event of about 1 KB")
    arguments = parser.parse_args()
    load = Load(
        arguments.host,
        arguments.port,
        arguments.path,
        arguments.key,
        run=f"{time.time_ns():x}",
        pad="x" * arguments.pad,
    )
    outcome = uvloop.run(run(load, connections=arguments.connections, seconds=arguments.seconds))
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
