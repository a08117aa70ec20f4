"""Where a customer may be sent back to (OA-15)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.installs.return_to import ReturnAddressRefused, check_return_to

OWN = "https://segment.acme.example"
LISTED = ("https://app.acme.example",)


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/settings?tab=segment#top",
        "https://segment.acme.example/x",
        "https://app.acme.example/y",
        "https://APP.acme.example/",
    ],
)
def test_oa_15_allowed_addresses(address: str) -> None:
    assert check_return_to(address, own_origin=OWN, allowed_origins=LISTED) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "settings",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https:evil.example",
        "https:/evil.example",
        "https://evil.example",
        "https://app.acme.example.evil.example",
        "https://app.acme.example@evil.example",
        "https://user@app.acme.example/",
        "https://app.acme.example:8443/",
        "http://app.acme.example/",
        "javascript:alert(1)",
        "data:text/html,x",
        "/a\r\nSet-Cookie: x=y",
        "/a\tb",
        " /a",
        "https://[::1",
    ],
)
def test_oa_15_refused_addresses(address: str) -> None:
    with pytest.raises(ReturnAddressRefused):
        check_return_to(address, own_origin=OWN, allowed_origins=LISTED)


@given(st.text(max_size=60))
def test_oa_15_nothing_leads_to_another_origin(address: str) -> None:
    try:
        checked = check_return_to(address, own_origin=OWN, allowed_origins=LISTED)
    except ReturnAddressRefused:
        return
    assert checked.startswith(("/", OWN, *LISTED))
    assert not checked.startswith(("//", "/\\"))
