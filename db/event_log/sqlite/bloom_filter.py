"""A Bloom filter over message keys: says for sure that an older segment has never seen a message.

Most events are new. The filter spares them a look-up in every segment of the dedupe window; in a full one about one in
forty thousand is looked up for nothing. A filter for two million events takes 8 MB.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

_Owner = TypeVar("_Owner")

_BITS_PER_KEY = 32
_PROBES = 6
_LEAST_BITS = 1024


class BloomFilter:
    """A set of 16-byte keys that may say yes wrongly and never says no wrongly.

    The keys are hashes already, so their own bits are the probes: one half is the first position, the other half
    the step to the next.
    """

    def __init__(self, bits: bytearray) -> None:
        self.bits = bits
        self.mask = len(bits) * 8 - 1

    @classmethod
    def for_keys(cls, count: int) -> BloomFilter:
        """Make an empty filter for up to ``count`` keys; its size is rounded up to a power of two."""
        wanted = max(_LEAST_BITS, count * _BITS_PER_KEY)
        return cls(bytearray((1 << (wanted - 1).bit_length()) // 8))

    def add(self, key: bytes) -> None:
        """Put a key in."""
        bits, mask = self.bits, self.mask
        position, step = probe(key)
        place, step = position & mask, step & mask
        for _ in range(_PROBES):
            bits[place >> 3] |= 1 << (place & 7)
            place = (place + step) & mask

    def __contains__(self, key: bytes) -> bool:
        return self.holds(*probe(key))

    def holds(self, position: int, step: int) -> bool:
        """Tell whether a key may be in, by its probe (so that several filters share the work of making it)."""
        bits, mask = self.bits, self.mask
        for _ in range(_PROBES):
            place = position & mask
            if not bits[place >> 3] >> (place & 7) & 1:
                return False
            position += step
        return True


def probe(key: bytes) -> tuple[int, int]:
    """Return where a filter looks for a key first, and the step to its next places."""
    return int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little") | 1


class BloomFilters(Generic[_Owner]):
    """The filters of several owners, looked through together: what they share is worked out once for all of them."""

    def __init__(self, members: Iterable[tuple[BloomFilter, _Owner]]) -> None:
        by_mask: dict[int, list[tuple[bytearray, BloomFilter, _Owner]]] = {}
        for keys, owner in members:
            by_mask.setdefault(keys.mask, []).append((keys.bits, keys, owner))
        self._by_mask = tuple(by_mask.items())

    def holding(self, key: bytes) -> list[_Owner]:
        """Return those that may hold a key, in the order in which they were given for filters of one size."""
        position, step = probe(key)
        found: list[_Owner] = []
        for mask, members in self._by_mask:
            first, second = position & mask, position + step & mask
            byte, bit, other, another = first >> 3, 1 << (first & 7), second >> 3, 1 << (second & 7)
            # Two of a filter's places: for 29 of 30 that is all that has to be looked at, and for most the first is.
            found += [
                owner
                for bits, keys, owner in members
                if bits[byte] & bit and bits[other] & another and keys.holds(position, step)
            ]
        return found
