"""A queue that serves those who wait in it in turns, however much each of them has put into it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Item = TypeVar("_Item")


class FairQueue(Generic[_Key, _Item]):
    """Items under keys: first in, first out for each key, and round-robin between keys."""

    def __init__(self) -> None:
        self._items: dict[_Key, deque[_Item]] = {}
        self._turns: deque[_Key] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, key: _Key, item: _Item) -> None:
        """Add an item at the end of its key's line."""
        if key not in self._items:
            self._items[key] = deque()
            self._turns.append(key)
        self._items[key].append(item)
        self._count += 1

    def next_key(self, may_go: Callable[[_Key], bool]) -> _Key | None:
        """Return the key whose turn it is among those that may go; the others keep their place."""
        return next((key for key in self._turns if may_go(key)), None)

    def take(self, key: _Key, limit: int, belongs: Callable[[_Item, _Item], bool]) -> list[_Item]:
        """Take up to ``limit`` items of a key from the front, and send the key to the end of the round.

        Args:
            belongs: whether an item may be taken along with the first one; what does not stays in its place.
        """
        line = self._items[key]
        taken = [line.popleft()]
        left: deque[_Item] = deque()
        while line and len(taken) < limit:
            item = line.popleft()
            (taken if belongs(taken[0], item) else left).append(item)
        line.extendleft(reversed(left))
        self._count -= len(taken)
        self._turns.remove(key)
        if line:
            self._turns.append(key)
        else:
            del self._items[key]
        return taken

    def take_newest(self) -> _Item | None:
        """Take the newest item of the longest line; ``None`` when nothing waits."""
        if not self._items:
            return None
        key = max(self._items, key=lambda waiting: len(self._items[waiting]))
        item = self._items[key].pop()
        self._count -= 1
        if not self._items[key]:
            del self._items[key]
            self._turns.remove(key)
        return item

    def take_all(self, key: _Key) -> list[_Item]:
        """Take everything of a key."""
        if key not in self._items:
            return []
        taken = list(self._items.pop(key))
        self._turns.remove(key)
        self._count -= len(taken)
        return taken

    def waiting(self) -> list[_Key]:
        """Return the keys that have something waiting, in the order of their turns."""
        return list(self._turns)
