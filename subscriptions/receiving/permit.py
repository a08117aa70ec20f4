"""A delivery from when it is let in until it is answered, and whose share it counts towards meanwhile."""

from __future__ import annotations

from enable_with_segment.components.errors import DeliveryRefused
from enable_with_segment.installs.key_cache import KeyCache
from enable_with_segment.subscriptions.receiving.concurrency_limit import ConcurrencyLimit
from enable_with_segment.subscriptions.receiving.load_shedding import STATUS, message_of


class Permit:
    """A delivery that was let in. It is a stranger's until its key is recognised.

    Attributes:
        place: where it is remembered what its key is worth; ``None`` if it presents none.
    """

    __slots__ = ("_concurrency_limit", "_keys", "_sender", "_size", "place")

    def __init__(
        self, concurrency_limit: ConcurrencyLimit, keys: KeyCache, place: bytes | None, *, size: int, sender: str
    ) -> None:
        self.place = place
        self._concurrency_limit = concurrency_limit
        self._keys = keys
        self._size = size
        self._sender = sender

    @classmethod
    def acquire(
        cls,
        concurrency_limit: ConcurrencyLimit,
        keys: KeyCache,
        place: bytes | None,
        *,
        content_length: bytes | None,
        content_encoding: bytes | None,
    ) -> Permit | None:
        """Let a delivery in; ``None`` when it is too much now."""
        sender = keys.sender(place)
        size = concurrency_limit.acquire(content_length, content_encoding, sender)
        return None if size is None else cls(concurrency_limit, keys, place, size=size, sender=sender)

    def recognised(self) -> None:
        """Take note that its key was looked up.

        Raises:
            DeliveryRefused: 503, its sender has as much as one may have.
        """
        sender = self._keys.sender(self.place)
        if sender != self._sender:
            if not self._concurrency_limit.recognise(self._size, self._sender, sender):
                raise DeliveryRefused(STATUS, message_of(self._concurrency_limit))
            self._sender = sender

    def release(self) -> None:
        """Take note that it was answered."""
        self._concurrency_limit.release(self._size, self._sender)
