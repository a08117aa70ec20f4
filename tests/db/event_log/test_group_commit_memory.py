"""Whoever has gone leaves nothing in memory, whatever becomes of the group."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator, Sequence

import pytest

from enable_with_segment.db.event_log.group_commit import GroupCommit
from enable_with_segment.db.event_log.records import EventLogUnavailable
from tests.db.event_log.told import Told


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
