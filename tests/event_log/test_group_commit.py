"""Items that wait together are committed together, and each waiter gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

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
