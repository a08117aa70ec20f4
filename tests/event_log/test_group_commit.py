"""Items that wait together are committed together, and each waiter gets its own answer."""

from __future__ import annotations

import asyncio
import gc
import traceback
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.event_log.group_commit import GroupCommit
from db.event_log.records import EventLogUnavailable, TooManyWaiting


async def test_what_waits_during_a_commit_goes_into_the_next_one() -> None:
    groups: list[list[int]] = []
    began, go = asyncio.Event(), asyncio.Event()

    async def commit(items: Sequence[int]) -> list[int]:
        groups.append(list(items))
        began.set()
        await go.wait()
        return [item * 10 for item in items]

    group_commit = GroupCommit(commit, largest=4)
    first = group_commit.submit(1)
    await began.wait()
    rest = [group_commit.submit(item) for item in range(2, 8)]
    await asyncio.sleep(0)
    rest[0].cancel()  # a sender that hung up while it waited
    await asyncio.sleep(0)
    go.set()
    assert await first == 10
    assert await asyncio.gather(*rest[1:]) == [30, 40, 50, 60, 70]
    assert groups == [[1], [3, 4, 5], [6, 7]]
    await group_commit.close()


async def test_a_commit_that_fails_fails_for_its_group_only() -> None:
    async def commit(items: Sequence[int]) -> list[int]:
        if 1 in items:
            raise EventLogUnavailable("down")
        return list(items)

    group_commit = GroupCommit(commit)
    answers = await asyncio.gather(*(group_commit.submit(item) for item in (1, 2)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [EventLogUnavailable] * 2
    assert await group_commit.submit(2) == 2


@pytest.mark.parametrize(("error", "frames"), [(EventLogUnavailable("down"), []), (KeyError("bug"), ["commit"])])
async def test_of_a_bug_whoever_waits_learns_the_place(error: Exception, frames: list[str]) -> None:
    async def commit(_items: Sequence[int]) -> list[int]:
        raise error

    told = (await asyncio.gather(GroupCommit(commit).submit(1), return_exceptions=True))[0]
    assert told is error
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert names[-1:] == frames


async def test_too_many_waiting_items_are_refused() -> None:
    go = asyncio.Event()

    async def commit(items: Sequence[int]) -> list[int]:
        await go.wait()
        return list(items)

    group_commit = GroupCommit(commit, most_waiting=3)
    waiting = [group_commit.submit(item) for item in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyWaiting, match="too many"):
        await group_commit.submit(4)
    go.set()
    assert await asyncio.gather(*waiting) == [0, 1, 2]


class Told:
    """A waiter that is no future."""

    def __init__(self, told: list[object]) -> None:
        self.told = told
        self.is_done = False

    def done(self) -> bool:
        return self.is_done

    def set_result(self, result: object) -> None:
        self.told.append(result)

    def set_exception(self, error: Exception) -> None:
        self.told.append(str(error))

    def cancel(self) -> None:
        self.told.append("cancelled")


async def test_who_waits_without_a_task_is_told_the_same() -> None:
    stored: list[int] = []
    go = asyncio.Event()

    async def commit(items: Sequence[int]) -> list[int | Exception]:
        stored.extend(items)
        if 5 in items:
            raise EventLogUnavailable("down")
        if 6 in items:
            await go.wait()
        return [EventLogUnavailable("odd") if item == 3 else item * 10 for item in items]

    group_commit: GroupCommit[int, int] = GroupCommit(commit)
    told: list[object] = []
    gone = Told([])
    gone.is_done = True
    for item in (1, 2, 3):
        group_commit.submit_for(gone if item == 2 else Told(told), item)
    await group_commit.close()
    assert (told, gone.told, stored) == ([10, "odd"], [], [1, 3])
    group_commit.submit_for(Told(told), 5)
    await group_commit.close()
    assert told[2:] == ["down"]
    group_commit.submit_for(Told(told), 6)
    while 6 not in stored:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert group_commit._task is not None
    group_commit._task.cancel()
    await group_commit.close()
    assert told[3:] == ["cancelled"]


class Item:
    """Something that can be asked whether it is still there."""


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize(
    ("error", "alone"), [(EventLogUnavailable, True), (EventLogUnavailable, False), (KeyError, False)]
)
async def test_of_a_group_that_failed_when_all_had_gone_nothing_is_kept(error: type[Exception], *, alone: bool) -> None:
    go = asyncio.Event()

    def fail(_items: Sequence[Item]) -> None:
        raise error

    async def commit(items: Sequence[Item]) -> list[int | Exception]:
        await go.wait()
        results: list[int | Exception] = []
        try:
            fail(items)
        except error as problem:
            if not alone:
                raise
            results += [problem] * len(items)
        return results

    group_commit: GroupCommit[Item, int] = GroupCommit(commit)
    gone = [Told([]) for _ in range(50)]
    items = [Item() for _ in gone]
    kept = [weakref.ref(item) for item in items]
    for waiter in gone:
        group_commit.submit_for(waiter, items.pop())
    for _ in range(3):
        await asyncio.sleep(0)
    for waiter in gone:
        waiter.is_done = True
    go.set()
    await group_commit.close()
    assert [reference() for reference in kept if reference() is not None] == []


@pytest.mark.usefixtures("_no_collector")
async def test_while_the_store_hangs_those_who_have_gone_hold_nothing() -> None:
    go = asyncio.Event()

    async def commit(items: Sequence[Item]) -> list[Item]:
        await go.wait()
        return list(items)

    group_commit = GroupCommit(commit)
    kept: list[weakref.ref[Item]] = []
    patient = [group_commit.submit(Item())]
    for _ in range(3):
        await asyncio.sleep(0)

    def send(number: int) -> None:
        future = group_commit.submit(item := Item())
        if number % 50:
            future.cancel()
            kept.append(weakref.ref(item))
        else:
            patient.append(future)

    for number in range(5_000):
        send(number)
    assert len([1 for reference in kept if reference() is not None]) <= 256
    go.set()
    assert len(set(await asyncio.gather(*patient))) == len(patient)
    await group_commit.close()


async def test_room_is_made_by_those_who_have_gone() -> None:
    go = asyncio.Event()

    async def commit(items: Sequence[int]) -> list[int]:
        await go.wait()
        return list(items)

    group_commit = GroupCommit(commit, most_waiting=3)
    waiting = [group_commit.submit(item) for item in range(3)]
    waiting[1].cancel()
    waiting[1] = group_commit.submit(1)
    with pytest.raises(TooManyWaiting):
        group_commit.submit(4)
    go.set()
    assert await asyncio.gather(*waiting) == [0, 1, 2]


async def test_who_waits_behind_a_group_that_is_cancelled_is_told_so() -> None:
    began = asyncio.Event()

    async def commit(items: Sequence[int]) -> list[int]:
        began.set()
        if 1 in items:
            await asyncio.Event().wait()
        return list(items)

    group_commit = GroupCommit(commit)
    first = group_commit.submit(1)
    await began.wait()
    behind = group_commit.submit(2)
    assert group_commit._task is not None
    group_commit._task.cancel()
    await group_commit.close()
    assert first.cancelled()
    assert behind.cancelled()
    assert await group_commit.submit(3) == 3


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]], ids=len)
async def test_a_wrong_number_of_results_is_an_error_for_everybody(results: list[int]) -> None:
    async def commit(items: Sequence[int]) -> list[int]:
        return results if 1 in items else list(items)

    group_commit = GroupCommit(commit)
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*map(group_commit.submit, (1, 2)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RuntimeError] * 2
    assert await group_commit.submit(3) == 3


class Odd(Told):
    """A waiter that does what none may do."""

    def set_result(self, result: object) -> None:
        raise KeyError(result)

    def set_exception(self, error: Exception) -> None:
        raise KeyError from error


@pytest.mark.parametrize("fails", [False, True])
async def test_a_waiter_that_raises_keeps_no_other_from_being_told(
    caplog: pytest.LogCaptureFixture, *, fails: bool
) -> None:
    async def commit(items: Sequence[int]) -> list[int | Exception]:
        return [EventLogUnavailable("down") if fails else item for item in items]

    group_commit: GroupCommit[int, int] = GroupCommit(commit)
    told: list[object] = []
    for item in range(3):
        group_commit.submit_for(Odd([]) if item == 1 else Told(told), item)
    await group_commit.close()
    assert told == (["down"] * 2 if fails else [0, 2])
    assert [record.exc_info is not None for record in caplog.records] == [True]


class Shop:
    """Senders that wait for their answer before they send again, a few in each turn; and a store that takes turns."""

    def __init__(self, senders: int) -> None:
        self.seen: list[str] = []
        self.told: list[int] = []
        self.items = iter(range(10**6))
        self.ready = senders
        self.group_commit = GroupCommit(self.commit)

    async def commit(self, items: Sequence[int]) -> list[int]:
        self.seen.append("begins")
        for _ in range(12):
            await asyncio.sleep(0)
        self.seen.append("ends")
        return list(items)

    async def run(self, turns: int) -> None:
        for _ in range(turns):
            for _ in range(min(4, self.ready)):
                self.ready -= 1
                self.group_commit.submit_for(self, next(self.items))
            await asyncio.sleep(0)
        await self.group_commit.close()

    def done(self) -> bool:
        return False

    def set_result(self, result: int) -> None:
        self.told.append(result)
        self.ready += 1
        if self.seen[-1] != "tells":
            self.seen.append("tells")

    def set_exception(self, error: Exception) -> None:
        raise AssertionError from error

    def cancel(self) -> None:
        raise AssertionError


@pytest.mark.parametrize("senders", [48, 64, 200, 900])
async def test_under_load_the_store_has_the_next_group_before_the_last_is_told(senders: int) -> None:
    shop = Shop(senders)
    await shop.run(2_000)
    steady = shop.seen[10:]
    steady = steady[steady.index("ends") : -2]
    assert len(steady) > 200
    assert steady == ["ends", "begins", "tells"] * (len(steady) // 3) + steady[: len(steady) % 3]
    assert shop.told == list(range(next(shop.items)))


@pytest.mark.parametrize("senders", [1, 4, 12])
async def test_few_are_told_before_the_next_group_is_made(senders: int) -> None:
    shop = Shop(senders)
    await shop.run(300)
    assert shop.seen == ["begins", "ends", "tells"] * (len(shop.seen) // 3)
    assert len(shop.told) / shop.seen.count("begins") > senders / 2
    assert shop.told == list(range(next(shop.items)))


class Store:
    """Commits when it is told to."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self._running: asyncio.Future[None] | None = None

    async def commit(self, items: Sequence[int]) -> list[int]:
        assert self._running is None, "one group at a time"
        self.groups.append(list(items))
        self._running = asyncio.get_running_loop().create_future()
        try:
            await self._running
        finally:
            self._running = None
        return [-item for item in items]

    def end(self, error: Exception | None = None) -> set[int]:
        """End what is being committed; returns the items that were refused."""
        if self._running is None or self._running.done():
            return set()
        if error is None:
            self._running.set_result(None)
            return set()
        self._running.set_exception(error)
        return set(self.groups[-1])


@given(st.data())
def test_everybody_is_told_once_and_of_their_own_item(data: st.DataObject) -> None:
    largest = data.draw(st.integers(1, 40), "largest")
    steps = data.draw(
        st.lists(
            st.one_of(
                st.tuples(st.just("submit"), st.integers(1, 60)),
                st.tuples(st.sampled_from(["commit", "fail", "hang up", "turn"]), st.integers(0, 60)),
            ),
            max_size=30,
        ),
        "steps",
    )

    async def play() -> None:
        store = Store()
        group_commit = GroupCommit(store.commit, largest=largest, most_waiting=150)
        futures: list[asyncio.Future[int]] = []
        refused: set[int] = set()
        for what, number in steps:
            match what:
                case "submit":
                    with suppress(TooManyWaiting):
                        for _ in range(number):
                            futures.append(group_commit.submit(len(futures)))
                case "hang up" if number < len(futures):
                    futures[number].cancel()
                case "fail":
                    refused |= store.end(EventLogUnavailable("down"))
                case "commit":
                    store.end()
            for _ in range(number % 7):
                await asyncio.sleep(0)
        while not all(future.done() for future in futures):
            store.end()
            await asyncio.sleep(0)
        await group_commit.close()
        for item, future in enumerate(futures):
            if future.cancelled():
                continue
            assert any(item in group for group in store.groups)
            if item in refused:
                assert isinstance(future.exception(), EventLogUnavailable)
            else:
                assert future.result() == -item
        stored = [item for group in store.groups for item in group]
        assert stored == sorted(set(stored)), "in the order of arrival, each once"
        assert all(len(group) <= largest for group in store.groups)

    asyncio.run(play())


async def test_a_commit_that_the_driver_broke_off_is_a_failure_and_nobodys_end() -> None:
    async def commit(items: Sequence[int]) -> list[int]:
        if 1 in items:
            raise asyncio.CancelledError
        return list(items)

    group_commit: GroupCommit[int, int] = GroupCommit(commit)
    with pytest.raises(EventLogUnavailable, match="broken off"):
        await group_commit.submit(1)
    assert await group_commit.submit(2) == 2
