"""Who is let in, by count and by sender: any order of coming and going."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.subscriptions.receiving.concurrency_limit import ConcurrencyLimit

SENDERS = st.sampled_from(["a", "b", "c", None])


@given(st.integers(1, 30), st.lists(st.tuples(st.booleans(), SENDERS), max_size=120))
def test_wh_14_no_sender_takes_the_last_places(most: int, moves: list[tuple[bool, str | None]]) -> None:
    limit, inside = ConcurrencyLimit(most, most_bytes=10_000, body_bytes=10), Counter[str | None]()
    for comes, sender in moves:
        free = most - inside.total()
        if comes:
            is_room = free > 0 and (sender is None or inside[sender] <= 3 * free)
            assert limit.refuses(b"1", None, sender) is not is_room
            assert is_room or limit.near_limit, "whoever is refused is refused early"
            assert (limit.acquire(b"1", None, sender) == 1) is is_room
            inside[sender] += is_room
        elif inside[sender]:
            limit.release(1, sender)
            inside[sender] -= 1
        assert limit.running == inside.total()
        assert free == 0 or not limit.refuses(b"1", None, "new") or limit.running == most
    for sender in inside.elements():
        limit.release(1, sender)
    assert limit.running == 0
    assert sum(limit.acquire(b"1", None, "alone") == 1 for _ in range(most)) > most * 0.7


@given(st.lists(st.tuples(st.booleans(), SENDERS, st.integers(0, 60)), max_size=120))
def test_wh_14_no_sender_takes_all_the_memory(moves: list[tuple[bool, str | None, int]]) -> None:
    limit, inside = ConcurrencyLimit(1_000, most_bytes=400, body_bytes=60), list[tuple[int, str | None]]()
    for comes, sender, size in moves:
        held = sum(bytes_ for bytes_, _ in inside)
        if comes:
            left = 400 - held - size
            own = sum(bytes_ for bytes_, one in inside if one == sender)
            is_room = not inside or (left >= 0 and (sender is None or own <= 3 * left))
            assert limit.refuses(b"%d" % size, None, sender) is not is_room
            assert is_room or limit.near_limit, "whoever is refused is refused early"
            assert (limit.acquire(b"%d" % size, None, sender) == size) is is_room
            inside += [(size, sender)] * is_room
        else:
            leaving = next((one for one in inside if one[1] == sender), None)
            if leaving is not None:
                limit.release(*leaving)
                inside.remove(leaving)
    while inside:
        limit.release(*inside.pop())
    while limit.acquire(None, None, "loud") is not None:
        inside.append((60, "loud"))
    assert len(inside) == 5
    assert limit.acquire(None, None, "quiet") == 60, "there is room for one more of whatever size"


def test_what_is_expected_counts_as_if_it_were_there() -> None:
    limit = ConcurrencyLimit(8, most_bytes=1_000, body_bytes=10)
    for _ in range(5):
        assert limit.acquire(b"1", None, "a") == 1
    turn: list[Callable[[], None]] = []
    before = limit.near_limit, limit.refuses(b"1", None, "a")
    for _ in range(2):
        limit.expect(turn.append)
    assert (before, limit.near_limit, limit.refuses(b"1", None, "a")) == (
        (False, False),
        True,
        True,
    )
    assert not limit.refuses(b"1", None, "b")
    for forget in turn:
        forget()
    assert not limit.refuses(b"1", None, "a")
