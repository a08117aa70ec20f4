"""Items that wait together are committed together, and each waiter gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from db.event_log.group_commit import GroupCommit
from db.event_log.records import EventLogUnavailable


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
    with pytest.raises(EventLogUnavailable, match="too many"):
        await group_commit.submit(4)
    go.set()
    assert await asyncio.gather(*waiting) == [0, 1, 2]
