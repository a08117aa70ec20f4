"""How fast a full log is handed to a handler that does nothing, in batches: ``python -m benchmarks.dispatching``.

A process of its own fills an event log with events of about 1 KB and lets a dispatcher work it off; only that is
measured. It prints one JSON object, as ``benchmarks.load`` does.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from benchmarks.handlers import crm
from benchmarks.load import Load
from benchmarks.storing import store
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.message_key import key_of_message
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import NewEvent
from enable_with_segment.db.migrate import migrate
from enable_with_segment.oauth_app.observability.metrics import Metrics
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher

_GROUP = 64
_PORTION = 4_096


async def measure(url: str, folder: Path, seconds: float) -> dict[str, object]:
    """Fill and empty a log in turns until its emptying has taken ``seconds``."""
    control = Database.open(f"sqlite+aiosqlite:///{folder}/dispatching-control.db")
    await migrate(control, "control")
    if url.startswith("postgresql"):
        stored = Database.open(url)
        await migrate(stored, "event_log")
        await stored.close()
    log = open_event_log(url)
    dispatcher = Dispatcher({crm.name: crm}, log, control, observer=Metrics())
    load = Load("", 0, "", "", run=f"{time.time_ns():x}", pad="x" * 620)
    gc.collect()  # as the server does when it starts
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    handled, took, spent = 0, 0.0, 0.0
    while took < seconds:
        await _fill(log, load)
        started, before = time.perf_counter(), time.process_time()
        handled += await dispatcher.run_due()
        took += time.perf_counter() - started
        spent += time.process_time() - before
    await log.close()
    await control.close()
    return {
        "rate": handled / took,
        "cpu_us": 1e6 * spent / handled,
        "p50_ms": None,
        "p99_ms": None,
        "statuses": {},
        "broken": 0,
    }


async def _fill(log: StoredEventLog, load: Load) -> None:
    for _ in range(_PORTION // _GROUP):
        await asyncio.gather(*(_append(log, *load.next_request()) for _ in range(_GROUP)))


async def _append(log: StoredEventLog, message_id: str, request: bytes) -> None:
    now = datetime.now(UTC)
    event = NewEvent(
        scope="key:1",
        dedupe_key=key_of_message(message_id),
        received_at=now,
        occurred_at=now,
        account="acme",
        component=crm.name,
        key_id="1",
        install_id=None,
        message_id=message_id,
        type="track",
        event="Order Completed",
        person_hash=key_of_message(message_id[-3:]).hex(),
        device_hash=None,
        previous_hash=None,
        body=request.partition(b"\r\n\r\n")[2],
        settings={},
    )
    await store(log, event)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatching", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    print(json.dumps(uvloop.run(measure(arguments.url, arguments.folder, arguments.seconds))))


if __name__ == "__main__":
    main()
