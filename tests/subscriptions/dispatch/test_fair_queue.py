"""The queue between the senders of a handler's events."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.subscriptions.dispatch.fair_queue import FairQueue


def _anything(_first: object, _item: object) -> bool:
    return True


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers()), max_size=60), st.integers(1, 5))
def test_each_key_keeps_its_order_and_nobody_waits_longer_than_one_round(
    items: list[tuple[str, int]], limit: int
) -> None:
    queue: FairQueue[str, int] = FairQueue()
    expected: dict[str, list[int]] = defaultdict(list)
    for key, item in items:
        queue.put(key, item)
        expected[key].append(item)
    taken: dict[str, list[int]] = defaultdict(list)
    turns: list[str] = []
    while (key_ := queue.next_key(lambda _: True)) is not None:
        waiting = set(queue.waiting())
        assert len(waiting - set(turns[-len(waiting) + 1 :] if len(waiting) > 1 else [])) >= 1
        taken[key_] += queue.take(key_, limit, _anything)
        turns.append(key_)
    assert taken == expected
    assert len(queue) == 0
    most = max((len(values) for values in expected.values()), default=0)
    for key_, values in expected.items():  # served within as many rounds as it has portions
        portions = -(-len(values) // limit)
        last = max(position for position, turn in enumerate(turns) if turn == key_)
        assert last < portions * len(expected)
    assert len(turns) <= -(-most // limit) * max(len(expected), 1)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.integers(1, 5))
def test_only_items_that_belong_together_are_taken_at_once(items: list[int], limit: int) -> None:
    queue: FairQueue[str, tuple[int, int]] = FairQueue()
    for position, item in enumerate(items):
        queue.put("a", (position, item))
    taken: list[tuple[int, int]] = []
    while queue.next_key(lambda _: True):
        part = queue.take("a", limit, lambda first, item: first[1] == item[1])
        assert len({item for _, item in part}) == 1
        assert len(part) <= limit
        taken += part
    assert sorted(taken) == list(enumerate(items))
    for value in set(items):
        positions = [position for position, item in taken if item == value]
        assert positions == sorted(positions)


def test_a_key_that_may_not_go_keeps_its_turn() -> None:
    queue: FairQueue[str, int] = FairQueue()
    for key in "abc":
        queue.put(key, 1)
    assert queue.next_key(lambda key: key != "a") == "b"
    queue.take("b", 1, _anything)
    assert queue.next_key(lambda _: True) == "a"
    assert queue.take_all("a") == [1]
    assert queue.take_all("a") == []
    assert queue.waiting() == ["c"]
