"""The filter over message keys never says no wrongly, and rarely yes."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.db.event_log.sqlite.bloom_filter import BloomFilter


def _key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()[:16]


@given(st.sets(st.binary(min_size=16, max_size=16), max_size=60))
def test_whatever_was_added_is_found_also_after_it_was_written_down(keys: set[bytes]) -> None:
    made = BloomFilter.for_keys(50)
    for key in keys:
        made.add(key)
    read = BloomFilter(bytearray(bytes(made.bits)))
    assert all(key in read for key in keys)


def test_what_was_never_added_is_rarely_found() -> None:
    full = BloomFilter.for_keys(10_000)
    for number in range(10_000):
        full.add(_key(number))
    wrong = sum(_key(number) in full for number in range(10_000, 30_000))
    assert wrong < 20_000 / 200
