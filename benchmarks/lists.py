"""What operators wait for on PostgreSQL beside millions of events: ``python -m benchmarks.lists --events 10000000``.

A server of its own, as it is set up by itself, is filled with events that were received over thirty days, each of which
has a partition (``benchmarks.filling``). Everything that a page or a command for operators asks is asked through the
log four times, and what dispatching asks as well. The table has the milliseconds of the first time, in which the server
plans it, and of the slowest of the other three. Then the same while 200,000 events wait, which no vacuum has seen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeAlias

import uvloop

from benchmarks import postgres
from benchmarks.filling import COMPONENT, add_pending, fill, message_id_of, vacuum
from benchmarks.questions import FILTERS, RARE
from benchmarks.session import interruptible, scratch, tell
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import SegmentLimits, StoredEventLog
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import EventFilter
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.db.migrate import migrate
from enable_with_segment.subscriptions.archive.dead_letter_groups import find_groups

_AGAIN = 3
_CLAIM = 500
_PROVED = 1_000

_Ask: TypeAlias = Callable[[], Awaitable[object]]


async def measure(url: str, *, events: int, days: int, pending: int) -> None:
    """Fill an empty database, ask, let events wait, and ask again."""
    database = Database.open(url)
    await migrate(database, "event_log")
    log = open_event_log(url, segment_limits=SegmentLimits(events=events // days, age=timedelta.max))
    await fill(database, log, events=events, span=timedelta(days=days), through_log=events // 100)
    await vacuum(database)
    await log.close()
    await database.close()
    await compare(url, pending=pending)


async def compare(url: str, *, pending: int) -> None:
    """Ask a log that is filled."""
    columns = []
    for waiting in (0, pending):
        log = open_event_log(url)  # new connections, which have planned nothing
        await add_pending(log, waiting, prefix=f"waiting-{time.time_ns()}")
        tell(f"asking, while {waiting:,} wait")
        columns.append({name: await _took(ask) for name, ask in (await questions(log)).items()})
        await log.close()
    print(f"{'ms':56} {'nothing waits':>17} {f'{pending:,} wait':>17}")
    print(f"{'':56}{'    first    again' * 2}")
    for name in columns[0]:
        print(f"{name:56}" + "".join(f" {milliseconds:8.1f}" for column in columns for milliseconds in column[name]))


async def questions(log: StoredEventLog) -> dict[str, _Ask]:
    """Return what is asked of a filled log."""
    (newest,) = await log.find(EventFilter(), limit=1)
    (repeated,) = (await log.search(EventFilter(state=EventState.REPEATED_DELETE), limit=1)).records
    half = newest.id // 2
    some_ids = [message_id_of(newest.id * place // _PROVED) for place in range(1, _PROVED)]
    return {
        **{f"list: {name}": partial(log.search, wanted) for name, wanted in {**FILTERS, **_MORE_FILTERS}.items()},
        "list: no filter, from the middle on": partial(log.search, EventFilter(), before_id=half),
        "list: rare account, from the middle on": partial(log.search, EventFilter(account=RARE), before_id=half),
        "list: handled, from the middle on": partial(log.search, EventFilter(state=EventState.HANDLED), before_id=half),
        "the newest event": partial(log.find, EventFilter(), limit=1),
        "one message, new": partial(log.show, newest.message_id or ""),
        "one message, old": partial(log.show, message_id_of(half)),
        "one message that never came": partial(log.show, "never"),
        "the deletion behind a repeated delete": partial(log.deletion_of, repeated.id),
        "dead letters in groups": partial(find_groups, log, EventFilter()),
        "dead letters of a rare account in groups": partial(find_groups, log, EventFilter(account=RARE)),
        "backlog": log.backlog,
        "count pending, up to ten million": partial(log.count_pending, 10_000_000),
        "size": log.size,
        "prove a thousand messages": partial(log.prove, some_ids),
        "claim 500 events, and give them back": _claim(log),
        "what comes before 500 events": partial(log.predecessors, range(newest.id - _CLAIM, newest.id)),
        "due": partial(log.due, [COMPONENT], now=datetime.now(UTC) + timedelta(seconds=1)),
    }


_MORE_FILTERS = {
    "install": EventFilter(install_id="ins-acme"),
    "rare install": EventFilter(install_id=f"ins-{RARE}"),
    "install that sent nothing": EventFilter(install_id="ins-nobody"),
    "install, type that never came": EventFilter(install_id="ins-acme", type="alias"),
    **{f"state {state.value}, install": EventFilter(state=state, install_id="ins-acme") for state in EventState},
    **{f"state {state.value}, rare install": EventFilter(state=state, install_id="ins-rare") for state in EventState},
    "account": EventFilter(account="customer-7"),
    "account and type": EventFilter(account="customer-7", type="identify"),
    "account and install that do not belong together": EventFilter(account="acme", install_id="ins-customer-7"),
    "component": EventFilter(component=COMPONENT),
    "component that does not exist": EventFilter(component="other"),
    "received since tomorrow": EventFilter(received_from=datetime.now(UTC) + timedelta(days=1)),
    "dead letters received long ago": EventFilter(
        state=EventState.DEAD_LETTER, received_before=datetime(2026, 1, 1, tzinfo=UTC)
    ),
    "messageId that never came, state handled": EventFilter(message_id="never", state=EventState.HANDLED),
    "messageId that never came, state dead_letter": EventFilter(message_id="never", state=EventState.DEAD_LETTER),
    "messageId that never came, rare account": EventFilter(message_id="never", account=RARE),
}


def _claim(log: StoredEventLog) -> _Ask:
    numbers = count()

    async def claim() -> None:
        lease, now = f"lease-{next(numbers)}", datetime.now(UTC) + timedelta(seconds=1)
        until = now + timedelta(minutes=1)
        claimed = await log.claim([COMPONENT], limit=_CLAIM, lease=lease, now=now, until=until)
        await log.release(lease, [event.id for event in claimed])

    return claim


async def _took(ask: _Ask) -> tuple[float, float]:
    """Return how many milliseconds a question took the first time, and at most afterwards."""
    times = []
    for _ in range(1 + _AGAIN):
        started = time.perf_counter()
        await ask()
        times.append(1_000 * (time.perf_counter() - started))
    return times[0], max(times[1:])


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lists", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=30, help="over how long they were received; each has a partition")
    parser.add_argument("--pending", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, default=None, help="on a real disk, not tmpfs; takes 1.3 KB for each")
    arguments = parser.parse_args()
    with interruptible(), scratch(arguments.folder) as folder, ExitStack() as stack:
        url = postgres.start(stack, folder).new_database("lists")
        uvloop.run(measure(url, events=arguments.events, days=arguments.days, pending=arguments.pending))


if __name__ == "__main__":
    main()
