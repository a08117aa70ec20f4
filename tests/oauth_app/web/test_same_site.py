"""What another site may not do, and what a browser does only on suspicion."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from enable_with_segment.oauth_app.web.same_site import is_same_site, is_speculative


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "https://a.example", "host": "a.example"}, False),
        ({"origin": "https://a.example", "host": "a.example"}, True),
        ({"origin": "https://evil.example", "host": "a.example"}, False),
        ({"origin": "null", "host": "a.example"}, False),
        ({"host": "a.example"}, True),
    ],
)
def test_is_same_site(headers: dict[str, str], expected: bool) -> None:
    assert is_same_site(Headers(headers)) is expected


@pytest.mark.parametrize("value", ["prefetch", "prefetch;prerender", "prerender"])
def test_is_speculative(value: str) -> None:
    assert is_speculative(Headers({"sec-purpose": value}))
    assert is_speculative(Headers({"purpose": value}))
    assert not is_speculative(Headers({}))
