"""The strict parser agrees with the standard one wherever it accepts a text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.components.strict_json import JsonInvalid, parse

usable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(usable, st.booleans())
def test_what_can_be_used_is_read_as_it_is(value: object, escaped: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=escaped).encode(), max_depth=200) == value


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        value = parse(body, max_depth=10)
    except JsonInvalid:
        return
    assert value == json.loads(body.removeprefix(b"\xef\xbb\xbf").decode())


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_depth_is_counted_outside_of_texts(depth: int, brackets_in_text: int) -> None:
    text = json.dumps('\\"' + "[{" * brackets_in_text)
    body = ("[" * depth + text + "]" * depth).encode()
    if depth > 10:
        with pytest.raises(JsonInvalid, match="deeper than 10"):
            parse(body, max_depth=10)
    else:
        parse(body, max_depth=10)


@pytest.mark.parametrize("pair", ["\\ud83e\\udd8a", "\\uD83E\\uDD8A", "\\\\ud800"])
def test_whole_surrogate_pairs_and_escaped_backslashes_are_fine(pair: str) -> None:
    assert parse(f'"{pair}"'.encode(), max_depth=1) == json.loads(f'"{pair}"')
