"""What only PostgreSQL does: partitions made ahead of the events, begun each day, dropped whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise

import pytest

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import SegmentLimits, StoredEventLog
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.postgresql import partitions
from enable_with_segment.db.event_log.records import EventFilter, Settlement
from enable_with_segment.db.event_log.states import EventState
from tests.db.event_log.events import erase, later, new_event, settle

DAILY = SegmentLimits(age=timedelta(days=1), dedupe=timedelta(days=30))


@pytest.fixture
async def log(postgresql_url: str) -> AsyncIterator[StoredEventLog]:
    opened = open_event_log(postgresql_url, segment_limits=DAILY)
    yield opened
    await opened.close()


@asynccontextmanager
async def _looking(url: str) -> AsyncIterator[Database]:
    database = Database.open(url)
    yield database
    await database.close()


async def _count(url: str, statement: str) -> int:
    async with _looking(url) as database, database.engine.connect() as connection:
        return int((await connection.exec_driver_sql(statement)).scalar_one())


async def _handle_all(log: StoredEventLog, *, days: int) -> None:
    now = later(days=days)
    for event in await log.claim(["acme-crm"], limit=100, lease="a", now=now, until=later(days=days + 1)):
        await settle(log, Settlement(event.id, "a", EventState.HANDLED, now))


async def test_each_day_begins_a_partition_and_old_ones_are_dropped_whole(
    log: StoredEventLog, postgresql_url: str
) -> None:
    for day in range(3):
        await log.append(new_event(f"m-{day}", received_at=later(days=day)))
        await log.append(new_event(f"n-{day}", received_at=later(days=day, hours=1)))
    assert await log.drop_before(later(days=9)) == 0, "they are still to be handled"
    await _handle_all(log, days=3)
    assert await log.drop_before(later(hours=1)) == 0, "the newest of the day is not older"
    assert await log.drop_before(later(days=1)) == 2
    assert [record.message_id for record in await log.tail(0, EventFilter())] == ["m-1", "n-1", "m-2", "n-2"]
    assert await log.drop_before(later(days=9)) == 2, "the newest partition stays"
    parents = "('events'::regclass, 'bodies'::regclass, 'handler_outcomes'::regclass)"
    assert await _count(postgresql_url, f"SELECT count(*) FROM pg_inherits WHERE inhparent IN {parents}") == 6  # noqa: S608
    assert await _count(postgresql_url, "SELECT count(*) FROM message_keys") == 2


async def test_a_dead_letter_made_pending_again_keeps_its_partition(log: StoredEventLog) -> None:
    await log.append(new_event("old"))
    (event,) = await log.claim(["acme-crm"], limit=1, lease="a", now=later(), until=later(minutes=1))
    await settle(log, Settlement(event.id, "a", EventState.DEAD_LETTER, later()))
    await log.append(new_event("new", received_at=later(days=1)))
    assert await log.retry_dead_letters(None, now=later(days=1)) == 1
    assert await log.drop_before(later(days=9)) == 0
    claimed = await log.claim(["acme-crm"], limit=9, lease="b", now=later(days=1), until=later(days=2))
    assert (claimed[0].id, claimed[0].body) == (event.id, event.body)


async def test_a_message_is_recognised_in_an_older_partition_and_forgotten_after_the_window(
    log: StoredEventLog, postgresql_url: str
) -> None:
    await log.append(new_event("m-1"))
    await log.append(new_event("m-2", received_at=later(days=29)))
    assert (await log.append(new_event("m-1", received_at=later(days=29)))).duplicate
    await log.append(new_event("m-3", received_at=later(days=31)))
    await log.drop_before(later(days=-1))
    assert not (await log.append(new_event("m-1", received_at=later(days=31)))).duplicate
    assert len(await log.show("m-1")) == 2, "the window is about duplicates, not about what is kept"
    assert await _count(postgresql_url, "SELECT count(*) FROM message_keys") == 3


async def test_several_processes_cross_the_end_of_a_partition_together(postgresql_url: str) -> None:
    logs = [open_event_log(postgresql_url, segment_limits=SegmentLimits(events=1)) for _ in range(3)]
    try:
        for number in range(0, 9_000, 1_500):
            names = [f"m-{number + offset}" for offset in range(1_500)]
            answers = await asyncio.gather(
                *(logs[place % 3].append(new_event(name)) for place, name in enumerate(names))
            )
            assert not any(answer.duplicate for answer in answers)
        async with _looking(postgresql_url) as database, database.engine.connect() as connection:
            found = await partitions.find(connection)
        assert len(found) >= 3
        assert all(one.end_id == next_one.first_id for one, next_one in pairwise(found))
        assert await _count(postgresql_url, "SELECT count(*) FROM events") == 9_000
    finally:
        for log in logs:
            await log.close()


async def test_a_process_that_was_away_while_the_others_went_on_finds_its_place(postgresql_url: str) -> None:
    idle = open_event_log(postgresql_url, segment_limits=DAILY)
    busy = open_event_log(postgresql_url, segment_limits=DAILY)
    try:
        await idle.append(new_event("first"))
        for day in range(1, 5):
            await busy.append(new_event(f"m-{day}", received_at=later(days=day)))
        assert not (await idle.append(new_event("last", received_at=later(days=4)))).duplicate
    finally:
        await idle.close()
        await busy.close()


async def test_the_same_message_at_two_processes_is_stored_once(postgresql_url: str) -> None:
    logs = [open_event_log(postgresql_url) for _ in range(2)]
    try:
        names = [f"m-{number}" for number in range(100)]
        orders = (names, names[::-1])
        answers = await asyncio.gather(
            *(log.append(new_event(name)) for log, order in zip(logs, orders, strict=True) for name in order)
        )
        assert sum(answer.duplicate for answer in answers) == 100
        records = await logs[0].find(EventFilter(), limit=1_000)
        assert sorted(record.message_id or "" for record in records) == sorted(names)
        assert {record.duplicates for record in records} == {1}
    finally:
        for log in logs:
            await log.close()


async def test_a_size_limit_drops_the_oldest_settled_partitions(log: StoredEventLog) -> None:
    for day in range(4):
        await log.append(new_event(f"m-{day}", received_at=later(days=day), body=b"x" * 100_000))
    full = await log.size()
    assert await log.drop_over(0) == 0, "they are still to be handled"
    await _handle_all(log, days=4)
    assert await log.drop_over(full * 2) == 0
    assert await log.drop_over(full - 1) == 1
    assert await log.drop_over(0) == 2, "the newest partition stays"
    assert await log.size() < full
    assert [record.message_id for record in await log.tail(0, EventFilter())] == ["m-3"]


async def test_one_event_that_stays_pending_keeps_no_later_partition_from_going(log: StoredEventLog) -> None:
    await log.append(new_event("elsewhere", component="served-elsewhere"))
    for day in range(1, 4):
        await log.append(new_event(f"m-{day}", received_at=later(days=day)))
    await _handle_all(log, days=3)
    assert await log.drop_before(later(days=9)) == 2
    assert [record.message_id for record in await log.tail(0, EventFilter())] == ["elsewhere", "m-3"]
    assert not (await log.append(new_event("m-4", received_at=later(days=4)))).duplicate


async def test_somebody_seen_on_very_many_devices_can_be_deleted(log: StoredEventLog, postgresql_url: str) -> None:
    await log.append(new_event("m-0"))
    async with _looking(postgresql_url) as database, database.engine.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO events (id, scope, received_at, occurred_at, available_at, account, component, key_id, type,"
            " person_hash, device_hash, state) SELECT nextval('event_ids'), scope, received_at, occurred_at,"
            " available_at, account, component, key_id, type, person_hash, 'device ' || i, 'handled'"
            " FROM events, generate_series(1, 33000) AS i"
        )
    await log.append(new_event("d-1", type="delete", occurred_at=later(minutes=1), received_at=later(minutes=1)))
    now, until = later(minutes=2), later(minutes=3)
    claimed = await log.claim(["acme-crm"], limit=9, lease="a", now=now, until=until)
    (delete,) = [event for event in claimed if event.type == "delete"]
    report = await erase(log, Settlement(delete.id, "a", EventState.HANDLED, now))
    assert report is not None
    assert report.merged_ids == 33_000


async def test_what_is_stored_is_acknowledged_though_its_duplicates_cannot_be_counted(
    log: StoredEventLog, postgresql_url: str
) -> None:
    await log.append(new_event("m-1"))
    async with _looking(postgresql_url) as database, database.engine.begin() as connection:
        await connection.exec_driver_sql(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$"
        )
        await connection.exec_driver_sql(
            "CREATE TRIGGER failing BEFORE UPDATE OF duplicates ON events FOR EACH ROW EXECUTE FUNCTION fail()"
        )
    appended = await asyncio.gather(*(log.append(new_event(message_id)) for message_id in ("m-1", "m-2")))
    assert [answer.duplicate for answer in appended] == [True, False]
