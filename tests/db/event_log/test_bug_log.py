"""A bug of ours is told with its place, once in a while, and with nothing of an event."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import NoReturn

import pytest

from enable_with_segment.db.event_log.bug_log import BugLog
from enable_with_segment.db.event_log.records import EventFilter, EventLogUnavailable, Settlement
from enable_with_segment.db.event_log.sqlite import SqliteEventLog, appending, claiming
from enable_with_segment.db.event_log.states import EventState
from tests.db.event_log.events import COMPONENTS, NOON, later, new_event

PERSON = "jane@customer.example"


class Ticks:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _as_written(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        logging.Formatter().format(one)
        for one in caplog.records
        if one.name == "enable_with_segment.db.event_log.bug_log"
    ]


def _somewhere(text: str) -> None:
    try:
        dict[str, str]()[text]
    except KeyError as before:
        raise ValueError(text) from before


def _elsewhere(text: str) -> NoReturn:
    raise ValueError(text)


def _meet(bugs: BugLog, text: str, *, elsewhere: bool = False) -> None:
    try:
        (_elsewhere if elsewhere else _somewhere)(text)
    except ValueError as error:
        bugs.met(error)


def test_a_bug_is_told_with_all_of_its_places_and_without_its_texts(caplog: pytest.LogCaptureFixture) -> None:
    _meet(BugLog(Ticks()), PERSON)
    (told,) = _as_written(caplog)
    assert told.startswith("A bug in the event log (ValueError)\nTraceback")
    assert "in _somewhere" in told
    assert "KeyError" in told
    assert PERSON not in told


def test_a_bug_that_comes_again_and_again_is_told_every_ten_minutes(caplog: pytest.LogCaptureFixture) -> None:
    ticks = Ticks()
    bugs = BugLog(ticks)
    for number in range(100):
        _meet(bugs, f"{number}")
    _meet(bugs, "another", elsewhere=True)
    ticks.now = 599.9
    _meet(bugs, "again")
    assert len(_as_written(caplog)) == 2, "one for each place"
    ticks.now = 600.0
    _meet(bugs, "again")
    told = _as_written(caplog)
    assert len(told) == 3
    assert told[2].startswith("A bug in the event log (ValueError), 101 times since it was last told\nTraceback")


def test_what_it_remembers_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    ticks = Ticks()
    bugs = BugLog(ticks)
    for number in range(30):
        ticks.now += 1
        bugs.met(type(f"Bug{number}", (Exception,), {})())
    assert len(bugs._told) == 20
    assert len(_as_written(caplog)) == 30


@pytest.mark.parametrize("bug", [LookupError, TypeError], ids=["of the log", "of each event"])
async def test_a_bug_in_the_sqlite_log_is_told_once_for_a_group_with_its_place(
    bug: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_arguments: object) -> NoReturn:
        raise bug(PERSON)

    log = SqliteEventLog(tmp_path / "events.db")
    with monkeypatch.context() as patched:
        patched.setattr(appending, "append", broken)
        events = [new_event(f"m-{number}") for number in range(5)]
        answers = await asyncio.gather(*(log.append(event) for event in events), return_exceptions=True)
    assert [type(answer) for answer in answers] == [EventLogUnavailable] * 5
    causes = {answer.__cause__ for answer in answers if isinstance(answer, EventLogUnavailable)}
    assert [cause.__traceback__ for cause in causes if cause] == [None] * len(causes), "frames keep events in memory"
    (told,) = _as_written(caplog)
    assert f"A bug in the event log ({bug.__name__})" in told
    assert "in broken" in told
    assert PERSON not in caplog.text
    assert len(await asyncio.gather(*(log.append(event) for event in events))) == 5
    assert [record.erased for record in await log.find(EventFilter())] == [False] * 5
    await log.close()


async def test_a_bug_in_the_results_of_handlers_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_arguments: object) -> NoReturn:
        raise TypeError(PERSON)

    log = SqliteEventLog(tmp_path / "events.db")
    await log.append(new_event())
    (event,) = await log.claim(COMPONENTS, limit=1, lease="a", now=NOON, until=later(minutes=1))
    with monkeypatch.context() as patched:
        patched.setattr(claiming, "settle", broken)
        assert await log.settle_all([Settlement(event.id, "a", EventState.HANDLED, NOON)]) == [False]
    (told,) = _as_written(caplog)
    assert "in broken" in told
    assert PERSON not in caplog.text
    await log.close()


async def test_what_the_disk_or_a_row_is_to_blame_for_is_no_bug(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = SqliteEventLog(tmp_path / "events.db")
    refused = await asyncio.gather(log.append(new_event(account=None)), return_exceptions=True)
    assert isinstance(refused[0], EventLogUnavailable)
    assert _as_written(caplog) == []
    await log.close()
