"""Groups take turns: under load the next one is on its way before the last is told; nobody is told twice or never."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.db.event_log.group_commit import GroupCommit
from enable_with_segment.db.event_log.records import EventLogUnavailable, TooManyWaiting


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
