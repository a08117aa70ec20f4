"""What another site may not do, and what a browser does only on suspicion."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from enable_with_segment.oauth_app.web.same_site import is_same_site, is_speculative
from tests.oauth_app.conftest import SERVICE, FrontDoor


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
        ({"origin": "https://segment.acme.example", "host": "10.0.0.7:8888"}, True),
        ({"origin": "https://segment.acme.example:443", "host": "10.0.0.7:8888"}, True),
        ({"origin": "http://segment.acme.example", "host": "10.0.0.7:8888"}, False),
        ({"origin": "https://segment.acme.example.evil.example", "host": "10.0.0.7:8888"}, False),
        ({"origin": "https://segment.acme.example:https", "host": "10.0.0.7:8888"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "https://segment.acme.example"}, False),
    ],
)
def test_is_same_site(headers: dict[str, str], expected: bool) -> None:
    assert is_same_site(Headers(headers), base_url="https://Segment.acme.example/below/a/path") is expected


@pytest.mark.parametrize("host", ["10.0.0.7:8888", "internal.example"])
async def test_the_button_works_behind_a_proxy_that_rewrites_host(front_door: FrontDoor, host: str) -> None:
    link = await front_door.link()
    async with front_door.client() as http:
        answer = await http.post(link, headers={"Host": host, "Origin": SERVICE})
    assert answer.status_code == 303


@pytest.mark.parametrize("value", ["prefetch", "prefetch;prerender", "prerender"])
def test_is_speculative(value: str) -> None:
    assert is_speculative(Headers({"sec-purpose": value}))
    assert is_speculative(Headers({"purpose": value}))
    assert not is_speculative(Headers({}))
