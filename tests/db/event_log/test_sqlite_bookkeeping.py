"""What the SQLite log remembers beside its segments stays true after failures, and while another process writes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from enable_with_segment.db.event_log.records import ClaimedEvent, EventLogUnavailable, Settlement
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.db.event_log.sqlite.catalogue import Catalogue
from enable_with_segment.db.event_log.sqlite.held_file import HeldFile
from enable_with_segment.db.event_log.sqlite.segment import Segment
from enable_with_segment.db.event_log.states import EventState
from tests.db.event_log.events import COMPONENTS, NOON, SMALL, erase, later, new_event, settle
from tests.db.event_log.full_disk import full_disk, largest_file_is

LARGE = b'{"type":"delete","userId":"u-1","pad":"' + b"x" * 200_000 + b'"}'


def _first_segment(folder: Path) -> Path:
    return folder / "events.db.000000000000001"


def _execute(path: Path, statement: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()


async def _claim(log: SqliteEventLog, *, lease: str = "a", minutes: float = 0) -> list[ClaimedEvent]:
    now = later(minutes=minutes)
    return await log.claim(COMPONENTS, limit=100, lease=lease, now=now, until=now + timedelta(minutes=1))


async def _handle_all(log: SqliteEventLog) -> None:
    claimed = await _claim(log)
    assert all(await log.settle_all([Settlement(event.id, "a", EventState.HANDLED, NOON) for event in claimed]))


async def test_a_segment_that_was_sealed_just_before_the_process_died_is_no_obstacle(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "events.db", limits=SMALL)
    for number in range(10):
        await log.append(new_event(f"m-{number}"))
    await log.close()
    sealed = Segment(_first_segment(tmp_path), 1, capacity=10)
    sealed.seal()  # and here the process dies, before the next segment is there
    sealed.close()
    for opening in range(3):
        log = SqliteEventLog(tmp_path / "events.db", limits=SMALL)
        assert (await log.append(new_event("m-0", received_at=later(minutes=opening)))).duplicate
        assert not (await log.append(new_event(f"new {opening}"))).duplicate
        await log.close()


async def test_nothing_is_added_to_a_sealed_segment_when_the_clock_was_set_back(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "events.db", limits=SMALL)
    await log.append(new_event("m-1"))
    await log.close()
    sealed = Segment(_first_segment(tmp_path), 1, capacity=10)
    sealed.seal()
    sealed.close()
    log = SqliteEventLog(tmp_path / "events.db", limits=SMALL)
    before = later(hours=-1)
    assert not (await log.append(new_event("m-2", received_at=before))).duplicate
    assert (await log.append(new_event("m-2", received_at=before))).duplicate
    await log.close()


async def test_case_105_a_delete_that_was_not_stored_is_not_taken_for_done_when_it_comes_again(
    small: SqliteEventLog, tmp_path: Path
) -> None:
    """Its tombstone is written before it, and another event gets the id that it would have had."""
    await small.append(new_event("m-1"))
    at = later(minutes=1)
    delete = new_event("d-1", type="delete", received_at=at, occurred_at=at, body=LARGE)
    with full_disk(tmp_path), pytest.raises(EventLogUnavailable):
        await small.append(delete)
    await small.append(new_event("m-2", person_hash="somebody else"))
    again = await small.append(delete._replace(received_at=later(minutes=2)))
    assert again.event_id in [event.id for event in await _claim(small, minutes=3)]


async def test_case_105_the_same_holds_when_the_process_died_in_between(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "events.db")
    delete = new_event("d-1", type="delete")
    await log.append(delete)
    await log.close()
    # As if nothing but its tombstone had come to the disk.
    _execute(_first_segment(tmp_path), "DELETE FROM events; DELETE FROM bodies")
    log = SqliteEventLog(tmp_path / "events.db")
    await log.append(new_event("m-2", person_hash="somebody else"))
    again = await log.append(delete._replace(received_at=later(minutes=2)))
    assert again.event_id in [event.id for event in await _claim(log, minutes=3)]
    await log.close()


async def test_a_delete_that_was_not_stored_takes_no_event_from_the_handlers(
    small: SqliteEventLog, tmp_path: Path
) -> None:
    await small.append(new_event("m-1"))
    at = later(minutes=1)
    with full_disk(tmp_path), pytest.raises(EventLogUnavailable):
        await small.append(new_event("d-1", type="delete", received_at=at, occurred_at=at, body=LARGE))
    (event,) = await _claim(small, minutes=2)
    assert not event.suppressed


async def test_events_are_still_found_after_an_erasure_that_could_not_be_written(
    small: SqliteEventLog, tmp_path: Path
) -> None:
    at = later(minutes=1)
    await small.append(new_event("d-1", type="delete", received_at=at, occurred_at=at))
    (delete,) = await _claim(small, minutes=1)
    for number in range(2):
        await small.append(new_event(f"m-{number}"))
    failing = "CREATE TRIGGER failing BEFORE DELETE ON bodies WHEN old.id = 3 BEGIN SELECT RAISE(ABORT, 'no'); END"
    _execute(_first_segment(tmp_path), failing)
    for _ in range(3):
        with pytest.raises(EventLogUnavailable):
            await erase(small, Settlement(delete.id, delete.lease, EventState.HANDLED, at))
    await small.release(delete.lease, [delete.id])
    assert len(await _claim(small, minutes=2)) == 3


async def test_a_claim_that_fails_holds_nothing(small: SqliteEventLog, tmp_path: Path) -> None:
    for number in range(15):
        await small.append(new_event(f"m-{number}"))
    second = tmp_path / "events.db.000000000000011"
    _execute(second, "ALTER TABLE bodies RENAME TO elsewhere")
    with pytest.raises(EventLogUnavailable):
        await _claim(small)
    _execute(second, "ALTER TABLE elsewhere RENAME TO bodies")
    claimed = await _claim(small, lease="b")
    assert (len(claimed), [event.id for event in claimed if event.interrupted]) == (15, [])


async def test_a_delete_of_somebody_seen_on_very_many_devices_holds_up_nobody(
    small: SqliteEventLog, tmp_path: Path
) -> None:
    await small.append(new_event("m-1", person_hash="somebody else"))
    await small.append(new_event("d-1", type="delete"))
    devices = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)"
    added = "INSERT INTO erasures SELECT 'acme', 'acme-crm', 'device ' || i, 0, 0, 2, NULL FROM n"
    _execute(tmp_path / "events.db", f"{devices} {added}")
    assert len(await _claim(small)) == 2


async def test_a_deletion_ends_as_a_whole_or_not_at_all(small: SqliteEventLog, tmp_path: Path) -> None:
    await small.append(new_event("d-1", type="delete"))
    (delete,) = await _claim(small)
    ended = Settlement(delete.id, delete.lease, EventState.HANDLED, NOON)
    failing = "CREATE TRIGGER failing BEFORE UPDATE OF completed_at ON erasures WHEN new.completed_at IS NOT NULL"
    _execute(tmp_path / "events.db", f"{failing} BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert await small.erase(delete.id, delete.lease, now=NOON) is not None
    assert not await settle(small, replace(ended, ends_deletion=True))
    (detail,) = await small.show("d-1")
    assert (detail.record.state, detail.body is None) == (EventState.PENDING, False)
    _execute(tmp_path / "events.db", "DROP TRIGGER failing")
    assert await erase(small, ended) is not None
    await small.append(new_event("alias", type="alias"))
    (alias,) = await _claim(small, minutes=1)
    assert alias.suppressed, "the deletion is complete"


async def test_what_another_process_lets_be_handled_again_is_handed_out(small: SqliteEventLog, tmp_path: Path) -> None:
    for number in range(15):
        await small.append(new_event(f"m-{number}"))
    await _handle_all(small)
    other = SqliteEventLog(tmp_path / "events.db", limits=SMALL)
    assert await other.revive(range(1, 16), handler=None, now=NOON) == 15
    await other.close()
    assert await small.drop_before(later(days=1)) == 0
    assert len(await _claim(small)) == 15


async def test_pending_events_of_all_segments_are_counted_also_those_of_another_process(
    small: SqliteEventLog, tmp_path: Path
) -> None:
    for number in range(25):
        await small.append(new_event(dedupe_key=number.to_bytes(16)))
    claimed = await small.claim(COMPONENTS, limit=12, lease="a", now=NOON, until=later(minutes=1))
    await small.settle_all([Settlement(event.id, "a", EventState.DEAD_LETTER, NOON) for event in claimed])
    assert [await small.count_pending(most) for most in (12, 13, 1_000)] == [12, 13, 13]
    other = SqliteEventLog(tmp_path / "events.db", limits=SMALL)
    assert await other.retry_dead_letters(None, now=NOON) == 12
    await other.close()
    assert await small.count_pending(1_000) == 25
    assert (await small.backlog()).pending == 25


async def test_a_file_that_takes_no_more_notes_takes_whole_ones_again_later(tmp_path: Path) -> None:
    held = HeldFile(tmp_path / "events.db")
    with largest_file_is(12):
        held.add([1, 2])
        held.remove([1])
    held.add([3])
    held.close()
    again = HeldFile(tmp_path / "events.db")
    assert again.left_over <= {1, 2, 3}
    assert 3 in again.left_over
    again.close()


async def test_a_catalogue_of_the_first_version_is_brought_up_to_date(small: SqliteEventLog, tmp_path: Path) -> None:
    """It had one deletion of a person, the newest, and each has its own now."""
    await small.append(new_event("d-1", type="delete"))
    await small.close()
    _execute(
        tmp_path / "events.db",
        """
        CREATE TABLE old (account TEXT NOT NULL, component TEXT NOT NULL, person_hash TEXT NOT NULL,
          erased_through INTEGER NOT NULL, requested_at INTEGER NOT NULL, event_id INTEGER NOT NULL,
          completed_at INTEGER, PRIMARY KEY (account, component, person_hash)) WITHOUT ROWID;
        INSERT INTO old SELECT * FROM erasures;
        DROP TABLE erasures;
        ALTER TABLE old RENAME TO erasures;
        CREATE INDEX erasures_of_event ON erasures (event_id);
        PRAGMA user_version = 1;
        """,
    )
    await small.append(new_event("m-1", received_at=later(seconds=10)))
    at = later(seconds=20)
    await small.append(new_event("m-2", received_at=at, occurred_at=at))
    await small.append(new_event("d-2", type="delete", received_at=at, occurred_at=at))
    claimed = await _claim(small, minutes=1)
    assert [(event.type, event.suppressed) for event in claimed] == [
        ("delete", False),
        ("identify", True),
        ("identify", True),
        ("delete", False),
    ]
    ended = [Settlement(event.id, event.lease, EventState.HANDLED, at) for event in claimed if event.type == "delete"]
    reports = [await erase(small, settlement) for settlement in ended]
    assert [report and report.events for report in reports] == [1, 3]


async def test_a_merge_of_which_the_first_version_noted_too_little_is_a_deletion_all_the_same(
    small: SqliteEventLog, tmp_path: Path
) -> None:
    """Its other id was noted for another deletion, and the process died before it could settle this one."""
    await small.append(new_event("d-1", type="delete"))
    at = later(seconds=10)
    await small.append(new_event("a-1", type="alias", previous_hash="lead", received_at=at))
    await small.close()
    _execute(
        tmp_path / "events.db",
        "INSERT INTO erasures SELECT account, component, 'phone', erased_through, requested_at, 2, NULL FROM erasures",
    )
    (merge,) = (event for event in await _claim(small, minutes=1) if event.type == "alias")
    assert merge.erased_through == NOON


def test_a_new_catalogue_may_be_opened_by_two_at_the_same_moment(tmp_path: Path) -> None:
    """The second one comes when the first has seen that there is nothing, and before it writes."""
    path = tmp_path / "events.db"

    def watch(first: apsw.Connection) -> None:
        apsw.connection_hooks.remove(watch)

        def before(_: apsw.Cursor, statement: str, __: object) -> bool:
            if statement.startswith("BEGIN"):
                first.exec_trace = None
                Catalogue(path).close()
            return True

        first.exec_trace = before

    apsw.connection_hooks.append(watch)
    catalogue = Catalogue(path)
    assert not catalogue.has_tombstones()
    catalogue.close()


async def test_files_that_cannot_all_be_opened_are_all_closed(small: SqliteEventLog, tmp_path: Path) -> None:
    """What is left open in part may hold a lock."""
    for number in range(15):
        await small.append(new_event(f"m-{number}"))
    await small.close()
    second = tmp_path / "events.db.000000000000011"
    content = second.read_bytes()
    second.write_bytes(b"no database" * 1_000)
    with pytest.raises(EventLogUnavailable):
        await small.append(new_event("more"))
    assert [one.filename for one in apsw.connections() if Path(one.filename).parent == tmp_path] == []
    second.write_bytes(content)
    assert not (await small.append(new_event("more"))).duplicate
