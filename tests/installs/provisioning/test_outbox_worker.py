"""The outbox worker: backoff, giving up, leases, waking, stopping."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.db.control import outbox
from enable_with_segment.db.control.tables import OutboxEntry
from enable_with_segment.db.database import Database
from enable_with_segment.installs.outbox_worker import Handler, OutboxWorker, delay_after, describe
from enable_with_segment.oauth_app.runtime.emergency_stop import SegmentUseStopped
from enable_with_segment.segment_api.errors import InvalidAnswer, RateLimited, SegmentUnavailable
from tests.installs.provisioning.stage import TestClock


def worker_of(database: Database, clock: TestClock, handler: Handler, owner: str = "a") -> OutboxWorker:
    return OutboxWorker(database, {"work": handler}, owner=owner, clock=clock, jitter=lambda: 0.0)


async def put(database: Database, clock: TestClock, kind: str = "work", install_id: str = "ins_1") -> str:
    async with database.transaction() as session:
        return await outbox.add(session, kind, install_id, now=clock())


async def entry_of(database: Database, entry_id: str) -> OutboxEntry:
    async with database.transaction() as session:
        found = await session.get(OutboxEntry, entry_id)
        assert found is not None
        return found


async def test_everything_due_is_run_once(database: Database) -> None:
    clock, ran = TestClock(), list[str]()

    async def handler(entry: OutboxEntry) -> None:
        ran.append(entry.id)

    ids = [await put(database, clock, install_id=f"ins_{n}") for n in range(20)]
    worker = worker_of(database, clock, handler)
    assert await worker.run_due() == 20
    assert sorted(ran) == sorted(ids)
    assert await worker.run_due() == 0


async def test_two_workers_share_and_never_double(database: Database) -> None:
    clock, ran = TestClock(), list[str]()

    async def handler(entry: OutboxEntry) -> None:
        ran.append(entry.id)
        await asyncio.sleep(0)

    ids = [await put(database, clock) for _ in range(30)]
    workers = [worker_of(database, clock, handler, owner) for owner in "abc"]
    assert sum(await asyncio.gather(*(worker.run_due() for worker in workers))) == 30
    assert sorted(ran) == sorted(ids)


async def test_work_that_the_work_wrote_is_run_too(database: Database) -> None:
    clock, ran = TestClock(), list[str]()

    async def handler(entry: OutboxEntry) -> None:
        ran.append(entry.install_id)
        if entry.install_id == "ins_1":
            await put(database, clock, install_id="ins_2")

    await put(database, clock)
    await worker_of(database, clock, handler).run_due()
    assert ran == ["ins_1", "ins_2"]


async def test_a_failure_is_postponed_and_noted_without_its_text(database: Database) -> None:
    clock = TestClock()

    async def handler(_: OutboxEntry) -> None:
        raise RuntimeError("secret")

    entry_id = await put(database, clock)
    await worker_of(database, clock, handler).run_due()
    entry = await entry_of(database, entry_id)
    assert entry.last_error == "RuntimeError"
    assert entry.available_at == clock() + timedelta(seconds=2)
    assert entry.finished_at is None


@pytest.mark.parametrize("error", [InvalidAnswer("never readable"), RuntimeError("a bug, or the store")], ids=repr)
async def test_a_failure_that_goes_on_is_given_up_after_72_hours(database: Database, error: Exception) -> None:
    clock, given_up = TestClock(), list[str]()

    async def handler(_: OutboxEntry) -> None:
        raise error

    async def note(entry: OutboxEntry, error: Exception) -> None:
        given_up.append(f"{entry.id} {error}")

    entry_id = await put(database, clock)
    worker = OutboxWorker(database, {"work": handler}, owner="a", clock=clock, given_up=note)
    for _ in range(3):
        for _ in range(12):
            await worker.run_due()
            clock.advance(minutes=11)
        clock.advance(hours=20)
    assert given_up == []
    clock.advance(hours=8)
    await worker.run_due()
    entry = await entry_of(database, entry_id)
    assert (entry.attempts, entry.last_error) == (37, describe(error))
    assert entry.finished_at is not None
    assert given_up == [f"{entry_id} {error}"]


async def test_work_that_nobody_tried_is_not_given_up_for_its_age(database: Database) -> None:
    clock, tried = TestClock(), list[str]()

    async def handler(entry: OutboxEntry) -> None:
        tried.append(entry.id)
        raise SegmentUnavailable("away")

    entry_id = await put(database, clock)
    clock.advance(days=10)  # the service was stopped
    worker = worker_of(database, clock, handler)
    for _ in range(7):
        await worker.run_due()
        clock.advance(minutes=11)
    assert (await entry_of(database, entry_id)).finished_at is None
    await worker.run_due()
    assert (await entry_of(database, entry_id)).finished_at is not None
    assert len(tried) == 8


async def test_work_that_the_emergency_stop_withholds_loses_no_time(database: Database) -> None:
    clock, stopped = TestClock(), True

    async def handler(_: OutboxEntry) -> None:
        if stopped:
            raise SegmentUseStopped("the operator has stopped all use of Segment")
        raise SegmentUnavailable("away")

    entry_id = await put(database, clock)
    worker = worker_of(database, clock, handler)
    for _ in range(20):
        await worker.run_due()
        clock.advance(hours=12)
    stopped = False
    for _ in range(10):
        await worker.run_due()
        assert (await entry_of(database, entry_id)).finished_at is None
        clock.advance(hours=6)


async def test_an_entry_whose_giving_up_fails_is_kept_and_ends_nobody_else(database: Database) -> None:
    clock, ran = TestClock(), list[str]()

    async def handler(entry: OutboxEntry) -> None:
        ran.append(entry.install_id)
        if entry.install_id == "ins_1":
            raise RuntimeError

    async def fail(_: OutboxEntry, __: Exception) -> None:
        raise RuntimeError

    kept = await put(database, clock, install_id="ins_1")
    await put(database, clock, install_id="ins_2")
    await OutboxWorker(database, {"work": handler}, owner="a", clock=clock, attempts=1, given_up=fail).run_due()
    assert sorted(ran) == ["ins_1", "ins_2"]
    assert (await entry_of(database, kept)).finished_at is None


async def test_an_entry_of_another_kind_is_left_to_another_worker(database: Database) -> None:
    clock, ran = TestClock(), list[str]()

    async def handler(entry: OutboxEntry) -> None:
        ran.append(entry.kind)

    unknown = await put(database, clock, kind="from-the-future")
    await put(database, clock)
    await worker_of(database, clock, handler).run_due()
    assert ran == ["work"]
    left = await entry_of(database, unknown)
    assert (left.attempts, left.leased_until, left.finished_at) == (0, None, None)


async def test_a_handler_that_outlives_its_lease_is_stopped(database: Database) -> None:
    clock = TestClock()

    async def handler(_: OutboxEntry) -> None:
        await asyncio.Event().wait()

    entry_id = await put(database, clock)
    lease = timedelta(milliseconds=20)
    await OutboxWorker(database, {"work": handler}, owner="a", clock=clock, lease=lease).run_due()
    assert (await entry_of(database, entry_id)).last_error == "TimeoutError"


async def test_a_lost_lease_closes_nothing(database: Database) -> None:
    clock = TestClock()
    entry_id = await put(database, clock)

    async def handler(_: OutboxEntry) -> None:
        clock.advance(hours=1)
        async with database.transaction() as session:
            assert (
                await outbox.claim(session, kinds=["work"], owner="b", now=clock(), lease=timedelta(hours=1))
                is not None
            )

    await worker_of(database, clock, handler).run_due()
    entry = await entry_of(database, entry_id)
    assert (entry.lease_owner, entry.finished_at) == ("b", None)


async def test_running_wakes_for_new_work_and_stops(database: Database) -> None:
    clock, ran = TestClock(), asyncio.Event()

    async def handler(_: OutboxEntry) -> None:
        ran.set()

    worker = OutboxWorker(database, {"work": handler}, owner="a", clock=clock, poll=timedelta(hours=1))
    running = asyncio.create_task(worker.run())
    await put(database, clock)
    worker.wake()
    async with asyncio.timeout(10):
        await ran.wait()
        worker.stop()
        await running


async def test_a_start_on_sqlite_takes_over_from_a_dead_process(sqlite_database: Database) -> None:
    clock, ran = TestClock(), asyncio.Event()
    await put(sqlite_database, clock)
    async with sqlite_database.transaction() as session:
        assert (
            await outbox.claim(session, kinds=["work"], owner="dead", now=clock(), lease=timedelta(hours=1)) is not None
        )

    async def handler(_: OutboxEntry) -> None:
        ran.set()

    worker = worker_of(sqlite_database, clock, handler)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(10):
        await ran.wait()
        worker.stop()
        await running


async def test_a_store_that_fails_does_not_end_the_worker(sqlite_database: Database) -> None:
    clock, ran = TestClock(), asyncio.Event()
    await put(sqlite_database, clock)

    async def handler(_: OutboxEntry) -> None:
        ran.set()

    async with sqlite_database.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE outbox RENAME TO hidden")
    poll = timedelta(milliseconds=1)
    worker = OutboxWorker(sqlite_database, {"work": handler}, owner="a", clock=clock, poll=poll)
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0.02)
    assert not running.done()
    async with sqlite_database.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE hidden RENAME TO outbox")
    async with asyncio.timeout(10):
        await ran.wait()
        worker.stop()
        await running


errors = st.one_of(
    st.just(RuntimeError("x")),
    st.builds(SegmentUnavailable, st.just("x"), retry_after=st.none() | st.floats(0, 3600)),
    st.builds(RateLimited, st.just("x"), retry_after=st.none() | st.floats(0, 3600)),
)


@given(errors, st.integers(1, 10_000), st.floats(0, 1))
def test_a_delay_is_bounded_and_respects_what_segment_asks_for(error: Exception, attempts: int, jitter: float) -> None:
    delay = delay_after(error, attempts, jitter)
    assert 1 <= delay <= 3600 * 1.1
    if isinstance(error, RateLimited):
        assert delay >= 60
    if isinstance(error, SegmentUnavailable) and error.retry_after is not None:
        assert delay >= error.retry_after


@given(st.integers(1, 100), st.floats(0, 1))
def test_delays_grow_until_ten_minutes(attempts: int, jitter: float) -> None:
    error = RuntimeError()
    assert delay_after(error, attempts, jitter) <= delay_after(error, attempts + 1, jitter) <= 600


def test_only_our_own_errors_are_described() -> None:
    assert describe(InvalidAnswer("no token")) == "InvalidAnswer: no token"
    assert describe(ValueError("password=hunter2")) == "ValueError"
