"""What goes through very many events in an SQLite log does so in portions, and others get their turn between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import apsw
import pytest

from enable_with_segment.db.event_log.log import SegmentLimits
from enable_with_segment.db.event_log.records import (
    EventFilter,
    EventLogUnavailable,
    NewEvent,
    RetryCutShort,
    Settlement,
)
from enable_with_segment.db.event_log.sqlite import SqliteEventLog, browsing, replaying
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.oauth_app.cli.output import problem_of
from enable_with_segment.subscriptions.archive.dead_letter_groups import find_groups, retry_group
from tests.db.event_log.events import COMPONENTS, NOON, later, new_event
from tests.db.event_log.turns import turns_of_others

_Result = TypeVar("_Result")


@pytest.fixture
async def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteEventLog]:
    """A log with segments of 10 events, of which 4 are looked at in a step."""
    monkeypatch.setattr(replaying, "_RETRIED_IN_STEP", 4)
    monkeypatch.setattr(browsing, "_COUNTED_IN_STEP", 4)
    opened = SqliteEventLog(tmp_path / "events.db", limits=SegmentLimits(events=10))
    yield opened
    await opened.close()


def _new(number: int) -> NewEvent:
    return new_event(f"m-{number}")


async def _fill(log: SqliteEventLog, count: int, state: EventState) -> list[int]:
    """Store so many events, and end them alike; returns their ids."""
    first = 1 + max((record.id for record in await log.find(EventFilter(), limit=1)), default=0)
    for number in range(first, first + count):
        await log.append(_new(number))
    claimed = await log.claim(COMPONENTS, limit=count, lease="a", now=NOON, until=later(minutes=1))
    ended = [Settlement(event.id, "a", state, NOON, error="no") for event in claimed]
    assert await log.settle_all(ended) == [True] * count
    return [event.id for event in claimed]


async def test_dead_letters_are_retried_a_portion_at_a_time(log: SqliteEventLog) -> None:
    await _fill(log, 25, EventState.DEAD_LETTER)
    await _fill(log, 3, EventState.HANDLED)
    retried, turns = await turns_of_others(log.retry_dead_letters(None, now=NOON))
    assert retried == 25
    assert turns >= 8, "once after each portion: three in each of two segments, two in the last"
    assert await log.retry_dead_letters(None, now=NOON) == 0
    assert (await log.backlog()).pending == 25
    assert len(await log.claim(COMPONENTS, limit=100, lease="b", now=NOON, until=later(minutes=1))) == 25


async def test_named_dead_letters_are_retried_a_portion_at_a_time_and_counted_once(log: SqliteEventLog) -> None:
    dead = await _fill(log, 25, EventState.DEAD_LETTER)
    handled = await _fill(log, 1, EventState.HANDLED)
    named = [*dead[3:20], *dead[3:9], *handled, 1_000]
    retried, turns = await turns_of_others(log.retry_dead_letters(named, now=NOON))
    assert (retried, turns >= 4) == (17, True)
    assert {record.id for record in await log.find(EventFilter(state=EventState.PENDING))} == set(dead[3:20])


async def test_what_is_given_up_again_meanwhile_is_retried_once(log: SqliteEventLog) -> None:
    """So that a retry of everything ends."""
    await _fill(log, 12, EventState.DEAD_LETTER)
    stop = asyncio.Event()

    async def give_up_again() -> None:
        while not stop.is_set():
            claimed = await log.claim(COMPONENTS, limit=100, lease="b", now=NOON, until=later(minutes=1))
            await log.settle_all([Settlement(event.id, "b", EventState.DEAD_LETTER, NOON) for event in claimed])

    beside = asyncio.create_task(give_up_again())
    async with asyncio.timeout(20):
        assert await log.retry_dead_letters(None, now=NOON) == 12
    stop.set()
    await beside


async def test_a_retry_that_is_cut_short_tells_how_far_it_came(log: SqliteEventLog, tmp_path: Path) -> None:
    await _fill(log, 25, EventState.DEAD_LETTER)
    last = apsw.Connection(str(tmp_path / "events.db.000000000000021"))
    last.execute("CREATE TRIGGER failing BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(RetryCutShort) as cut:
        await log.retry_dead_letters(None, now=NOON)
    assert cut.value.retried == (await log.backlog()).pending == 20
    problem = problem_of(cut.value)
    assert problem is not None
    assert problem.sentences == [
        "The event log failed after 20 dead letters were made pending, and the others were not."
        " Check EVENT_LOG_URL and run the command again."
    ]
    with pytest.raises(EventLogUnavailable) as failed:
        await log.retry_dead_letters(None, now=NOON)
    assert not isinstance(failed.value, RetryCutShort), "nothing was retried this time"
    last.execute("DROP TRIGGER failing")
    last.close()
    assert await log.retry_dead_letters(None, now=NOON) == 5


async def test_a_group_that_is_cut_short_tells_how_far_it_came(log: SqliteEventLog, tmp_path: Path) -> None:
    await _fill(log, 25, EventState.DEAD_LETTER)
    last = apsw.Connection(str(tmp_path / "events.db.000000000000021"))
    last.execute("CREATE TRIGGER failing BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'no'); END")
    last.close()
    (group,) = await find_groups(log, EventFilter())
    with pytest.raises(RetryCutShort) as cut:
        await retry_group(log, group.id, now=NOON)
    assert cut.value.retried == 20


async def test_a_segment_that_is_dropped_meanwhile_is_passed_over(log: SqliteEventLog) -> None:
    await _fill(log, 25, EventState.DEAD_LETTER)
    retrying = asyncio.create_task(log.retry_dead_letters(None, now=NOON))
    counting = asyncio.create_task(log.counts(NOON))
    await asyncio.sleep(0)  # each has taken its first step
    assert (await log.backlog()).pending == 4
    dropped = await log.drop_before(later(days=1))
    assert dropped == 10, "the first has pending events by now, the second has none yet"
    assert await retrying == 15
    assert (await counting).total <= 25
    assert (await log.backlog()).pending == 15


async def test_events_are_counted_a_portion_at_a_time(log: SqliteEventLog) -> None:
    await _fill(log, 13, EventState.HANDLED)
    await _fill(log, 5, EventState.DEAD_LETTER)
    for number in range(100, 107):
        await log.append(_new(number))
    await log.append(_new(100))
    counts, turns = await turns_of_others(log.counts(NOON))
    assert counts.by_state == {EventState.HANDLED: 13, EventState.DEAD_LETTER: 5, EventState.PENDING: 7}
    assert (counts.due, counts.duplicates, counts.total) == (7, 1, 25)
    assert turns >= 8, "once after each portion: three in each of two segments, two in the last"
    assert (await log.counts(later(minutes=-1))).due == 0
