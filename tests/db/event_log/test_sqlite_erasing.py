"""What was erased leaves the files of an SQLite log for good, their write-ahead logs as well, and holds up nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from enable_with_segment.db.event_log.log import SegmentLimits
from enable_with_segment.db.event_log.records import ClaimedEvent, Settlement
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.db.event_log.sqlite.segment import Segment
from enable_with_segment.db.event_log.states import EventState
from tests.db.event_log.events import NOON, erase, later, new_event

SMALL = SegmentLimits(events=10, age=timedelta(days=1), dedupe=timedelta(days=30))
SECRET = b"karin@mail.example"


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    """A log that begins a new segment every ten events."""
    opened = SqliteEventLog(tmp_path / "events.db", limits=SMALL)
    yield opened
    await opened.close()


def _first_segment(folder: Path) -> Path:
    return folder / "events.db.000000000000001"


async def _claim(log: SqliteEventLog) -> list[ClaimedEvent]:
    return await log.claim(["acme-crm"], limit=100, lease="a", now=NOON, until=later(minutes=1))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and not path.name.endswith("-shm")]


async def _erase_somebody_in_three_segments(log: SqliteEventLog) -> None:
    body = b'{"type":"identify","userId":"%s"}' % SECRET
    for number in range(25):
        await log.append(new_event(f"m-{number}", body=body))
    await log.append(new_event("d-1", type="delete", body=body))
    await log.settle_all([Settlement(event.id, "a", EventState.HANDLED, NOON) for event in await _claim(log)])
    (delete,) = await _claim(log)
    assert await erase(log, Settlement(delete.id, delete.lease, EventState.HANDLED, NOON)) is not None


def _holding_it(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file() and SECRET in path.read_bytes())


async def _until_only_these_hold_it(folder: Path, *names: str) -> None:
    async with asyncio.timeout(30):
        while _holding_it(folder) != list(names):  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.01)


async def test_what_was_erased_leaves_every_file(log: SqliteEventLog, tmp_path: Path) -> None:
    await _erase_somebody_in_three_segments(log)
    await _until_only_these_hold_it(tmp_path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchall()
    yield
    reader.close()


async def test_what_was_erased_leaves_a_file_that_somebody_reads_once_they_are_done(
    log: SqliteEventLog, tmp_path: Path
) -> None:
    await log.append(new_event("m-0"))
    with _reading(_first_segment(tmp_path)):
        await _erase_somebody_in_three_segments(log)
        await _until_only_these_hold_it(tmp_path, "events.db.000000000000001-wal")
        assert not (await log.append(new_event("goes on"))).duplicate
    await _until_only_these_hold_it(tmp_path)


async def test_nobody_is_waited_for_when_what_was_erased_leaves_the_files(tmp_path: Path) -> None:
    """Whoever waits for a reader waits inside of the event loop."""
    segment = Segment(_first_segment(tmp_path), 1, capacity=10)
    with _reading(segment.path):
        segment.connection.execute("CREATE TABLE erased (body)")
        patience: list[int] = []

        def look(_cursor: object, statement: str, _values: object) -> bool:
            if "checkpoint" in statement:
                patience.append(segment._number("PRAGMA busy_timeout"))
            return True

        segment.connection.exec_trace = look
        assert not segment.forget_deleted()
        assert patience == [0]
        assert segment._number("PRAGMA busy_timeout") > 0
    assert segment.forget_deleted()
    segment.close()


async def test_what_was_erased_leaves_the_files_after_the_process_died(log: SqliteEventLog, tmp_path: Path) -> None:
    await log.append(new_event("m-0"))
    died = tmp_path / "died"
    died.mkdir()
    with _reading(_first_segment(tmp_path)):
        await _erase_somebody_in_three_segments(log)
        for path in _files(tmp_path):
            (died / path.name).write_bytes(path.read_bytes())
    assert _holding_it(died) != []
    opened = SqliteEventLog(died / "events.db", limits=SMALL)
    await opened.append(new_event("goes on"))
    await _until_only_these_hold_it(died)
    await opened.close()
