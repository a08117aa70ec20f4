"""Items that wait together are committed together, and each waiter gets its own answer."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Sequence

import pytest

from enable_with_segment.db.event_log.group_commit import GroupCommit
from enable_with_segment.db.event_log.records import EventLogUnavailable, TooManyWaiting
from tests.db.event_log.told import Told


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


async def test_a_commit_that_the_driver_broke_off_is_a_failure_and_nobodys_end() -> None:
    async def commit(items: Sequence[int]) -> list[int]:
        if 1 in items:
            raise asyncio.CancelledError
        return list(items)

    group_commit: GroupCommit[int, int] = GroupCommit(commit)
    with pytest.raises(EventLogUnavailable, match="broken off"):
        await group_commit.submit(1)
    assert await group_commit.submit(2) == 2
