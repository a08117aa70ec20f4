"""What only the SQLite files can do: segments, a second process, a full or broken disk, and coming back."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.records import (
    AnotherProcessWrites,
    EventFilter,
    EventLogUnavailable,
    ReplayPolicy,
    Settlement,
)
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.db.event_log.sqlite.connection import open_connection
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.db.migrate import migrate
from tests.db.event_log.events import COMPONENTS, NOON, SMALL, later, new_event, settle
from tests.db.event_log.full_disk import full_disk


async def _fill(log: SqliteEventLog, numbers: range) -> None:
    for number in numbers:
        await log.append(new_event(f"m-{number}", received_at=later(minutes=number)))


async def _settle_all(log: SqliteEventLog) -> None:
    while claimed := await log.claim(COMPONENTS, limit=100, lease="a", now=later(days=9), until=later(days=10)):
        await asyncio.gather(
            *(settle(log, Settlement(event.id, "a", EventState.HANDLED, later(days=9))) for event in claimed)
        )


def _segments(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("events.db.0*") if not path.name.endswith(("-wal", "-shm")))


async def test_a_message_is_a_duplicate_in_every_segment_of_the_window(small: SqliteEventLog, tmp_path: Path) -> None:
    await _fill(small, range(35))
    assert len(_segments(tmp_path)) == 4
    again = [await small.append(new_event(f"m-{number}", received_at=later(hours=2))) for number in range(35)]
    assert all(answer.duplicate for answer in again)
    assert len(await small.find(EventFilter(), limit=100)) == 35
    late = await small.append(new_event("m-0", received_at=later(days=31)))
    assert not late.duplicate, "outside of the window it is a new event"


async def test_segments_are_found_again_after_a_restart(small: SqliteEventLog, tmp_path: Path) -> None:
    await _fill(small, range(25))
    await small.close()
    opened = SqliteEventLog(tmp_path / "events.db", limits=SMALL)
    assert [record.message_id for record in await opened.tail(0, EventFilter(), limit=100)] == [
        f"m-{number}" for number in range(25)
    ]
    assert (await opened.append(new_event("m-3", received_at=later(hours=1)))).duplicate
    assert (await opened.append(new_event("m-24", received_at=later(hours=1)))).duplicate
    appended = await opened.append(new_event("m-25", received_at=later(hours=1)))
    assert appended.event_id == 26
    await opened.close()


@pytest.mark.parametrize("path", ["[eu]/events.db", "events[1].db", "*/ev?nts.db"])
async def test_segments_are_found_whatever_their_folder_and_their_log_are_called(tmp_path: Path, path: str) -> None:
    for opening in range(2):
        log = SqliteEventLog(tmp_path / path, limits=SMALL)
        await _fill(log, range(15 * opening, 15 * opening + 15))
        await log.close()
    log = SqliteEventLog(tmp_path / path, limits=SMALL)
    assert (await log.prove([f"m-{number}" for number in range(30)])).missing == ()
    assert (await log.append(new_event("m-3", received_at=later(hours=1)))).duplicate
    await log.close()


async def test_old_segments_go_when_nothing_in_them_is_pending(small: SqliteEventLog, tmp_path: Path) -> None:
    await _fill(small, range(30))
    assert await small.drop_before(later(days=5)) == 0, "they are still to be handled"
    await _settle_all(small)
    assert await small.drop_before(later(minutes=15)) == 10
    assert await small.drop_before(later(days=5)) == 10, "the newest segment stays"
    assert len(_segments(tmp_path)) == 1
    (oldest,) = await small.tail(0, EventFilter(), limit=1)
    assert oldest.message_id == "m-20"


async def test_one_event_that_stays_pending_keeps_no_later_segment_from_going(
    small: SqliteEventLog, tmp_path: Path
) -> None:
    await small.append(new_event("elsewhere", component="served-elsewhere"))
    await _fill(small, range(29))
    await _settle_all(small)
    assert await small.drop_before(later(days=5)) == 10
    assert await small.drop_before(later(days=5)) == 0
    assert len(_segments(tmp_path)) == 2
    assert not (await small.append(new_event("m-15"))).duplicate, "it was forgotten"
    assert (await small.append(new_event("m-0"))).duplicate, "the segment of the pending event stays"


async def test_only_one_process_writes(small: SqliteEventLog, tmp_path: Path) -> None:
    await small.append(new_event("m-1"))
    other = SqliteEventLog(tmp_path / "events.db")
    with pytest.raises(EventLogUnavailable, match="another process"):
        await other.append(new_event("m-2"))
    with pytest.raises(EventLogUnavailable, match="another process"):
        await other.claim(COMPONENTS, limit=1, lease="b", now=NOON, until=later(minutes=1))
    with pytest.raises(AnotherProcessWrites, match="another process writes to this event log"):
        await other.become_writer()
    assert (await other.prove(["m-1"])).missing == ()
    await small.become_writer()
    await small.close()
    await other.become_writer()
    with pytest.raises(AnotherProcessWrites):
        await small.append(new_event("m-3"))
    assert not (await other.append(new_event("m-2"))).duplicate
    await other.close()
    await small.close()


async def test_who_takes_over_goes_on_where_the_other_process_stopped(small: SqliteEventLog, tmp_path: Path) -> None:
    await small.append(new_event("m-0"))
    other = SqliteEventLog(tmp_path / "events.db")
    await other.check()  # so its files are open
    await _fill(small, range(1, 14))  # into another segment
    await small.append(new_event("m-14", scope="elsewhere", account="acct_2"))
    await small.append(new_event("erase", type="delete", person_hash="p"))
    await small.close()
    assert (await other.append(new_event("m-13"))).duplicate
    assert not (await other.append(new_event("m-15", scope="elsewhere", account="acct_2"))).duplicate
    assert (await other.counts(NOON)).total == 17
    stored = await other.find(EventFilter(), limit=99)
    assert len({record.id for record in stored}) == len(stored) == 17
    (deleted,) = [record for record in stored if record.type == "delete"]
    assert await other.deletion_of(deleted.id) is not None
    await other.close()


async def test_who_only_looks_keeps_nobody_from_writing(small: SqliteEventLog, tmp_path: Path) -> None:
    other = SqliteEventLog(tmp_path / "events.db")
    await other.check()
    await other.find(EventFilter())
    await other.retry_dead_letters(None, now=NOON)
    await other.backlog()
    await small.append(new_event("m-1"))
    await other.close()


@pytest.mark.parametrize(("policy", "handled_again"), [(ReplayPolicy.HOLD, 0), (ReplayPolicy.DISPATCH, 1)])
async def test_a_replay_is_counted_and_handled_again_where_that_is_wanted(
    tmp_path: Path, policy: ReplayPolicy, handled_again: int
) -> None:
    log = SqliteEventLog(tmp_path / "events.db", replays=policy)
    await log.append(new_event("m-1"))
    await _settle_all(log)
    replayed = new_event("m-1", replay=True, body=b'{"type":"identify","userId":"u-1","integrations":{"All":false}}')
    assert (await log.append(replayed)).duplicate
    (record,) = await log.find(EventFilter())
    assert (record.duplicates, record.differing_duplicates, record.replays) == (1, 0, 1)
    claimed = await log.claim(COMPONENTS, limit=9, lease="b", now=later(days=9), until=later(days=10))
    assert len(claimed) == handled_again
    await log.close()


async def test_a_full_disk_refuses_and_the_log_comes_back_by_itself(small: SqliteEventLog, tmp_path: Path) -> None:
    await small.append(new_event("m-1"))
    large = b'{"type":"identify","userId":"u-1","pad":"' + b"x" * 200_000 + b'"}'
    with full_disk(tmp_path):
        with pytest.raises(EventLogUnavailable):
            await small.append(new_event("m-2", body=large))
        with pytest.raises(EventLogUnavailable):
            await small.append(new_event("m-2", body=large))
    assert not (await small.append(new_event("m-2", body=large))).duplicate
    assert (await small.prove(["m-1", "m-2"])).missing == ()


async def test_a_torn_write_ahead_log_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    """A power cut may leave half a frame at the end: it belongs to a commit that was never acknowledged."""
    log = SqliteEventLog(tmp_path / "events.db")
    await _fill(log, range(5))
    (segment,) = _segments(tmp_path)
    copy = tmp_path / "after"
    copy.mkdir()
    for name in ("events.db", "events.db-wal", segment, f"{segment}-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    with (copy / f"{segment}-wal").open("ab") as file:
        file.write(b"\x00\x00\x00\x07 half a frame that was never synced")
    await log.close()
    opened = SqliteEventLog(copy / "events.db")
    assert (await opened.prove([f"m-{number}" for number in range(5)])).missing == ()
    assert not (await opened.append(new_event("m-5"))).duplicate
    await opened.close()


async def test_files_that_are_broken_are_unavailable_and_never_acknowledged(
    small: SqliteEventLog, tmp_path: Path
) -> None:
    await small.append(new_event("m-1"))
    await small.close()
    (segment,) = _segments(tmp_path)
    (tmp_path / segment).write_bytes(b"this is no database" * 1_000)
    broken = SqliteEventLog(tmp_path / "events.db")
    with pytest.raises(EventLogUnavailable):
        await broken.append(new_event("m-2"))
    with pytest.raises(EventLogUnavailable):
        await broken.check()
    await broken.close()


async def test_only_the_owner_may_read_what_is_stored(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "events.db")
    await log.append(new_event())
    await log.claim(["acme-crm"], limit=1, lease="a", now=NOON, until=later(minutes=1))
    database = Database.open(f"sqlite+aiosqlite:///{tmp_path}/control.db")
    await migrate(database, "control")
    files = sorted(tmp_path.iterdir())  # noqa: ASYNC240  nothing else runs
    assert {"events.db", "events.db.writer", "control.db"} <= {path.name for path in files}
    assert [path.name for path in files if path.stat().st_mode & 0o077] == []
    await database.close()
    await log.close()


def test_several_can_make_a_new_file_at_the_same_moment(tmp_path: Path) -> None:
    several = Barrier(3)

    def make(path: Path) -> None:
        several.wait(20)
        open_connection(path, cache_bytes=1_000_000).close()

    with ThreadPoolExecutor(3) as threads:
        for number in range(500):
            list(threads.map(make, [tmp_path / f"{number}.db"] * 3))
