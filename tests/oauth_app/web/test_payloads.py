"""Bodies and times as the dashboard shows them: pure functions over any stored body."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.db.clock import utc_now
from enable_with_segment.oauth_app.web.dashboard.pages import ago
from enable_with_segment.oauth_app.web.dashboard.payloads import in_full, masked


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(min_size=12),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_masking_hides_every_text_whatever_the_body(properties: Any) -> None:
    shown = masked(json.dumps({"type": "track", "messageId": "m-1", "properties": properties}).encode())
    assert '"track"' in shown

    def texts(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        return [text for item in inner for text in texts(item)]

    assert not any(json.dumps(text, ensure_ascii=False) in shown for text in texts(properties))


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_object_is_masked_as_a_whole(body: bytes) -> None:
    assert masked(body) == "•••"
    assert isinstance(in_full(body), str)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "just now"), (45, "45 s ago"), (61, "1 min ago"), (7_300, "2 h ago"), (200_000, "2 d ago"), (-90, "in 1 min")],
)
def test_times_are_told_roughly(seconds: int, told: str) -> None:
    now = utc_now()
    assert ago(now - timedelta(seconds=seconds), now) == told
    assert ago(None, now) == "never"
