"""Which base URLs may be given secrets."""

from __future__ import annotations

import pytest

from enable_with_segment.segment_api.urls import BaseUrlRefused, check_base_url, is_loopback


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://id.segmentapis.com", "https://id.segmentapis.com"),
        ("https://platform.segmentapis.com/v1beta/", "https://platform.segmentapis.com/v1beta"),
        ("http://127.0.0.1:8889", "http://127.0.0.1:8889"),
        ("http://localhost:8889/v1beta", "http://localhost:8889/v1beta"),
        ("http://segment.localhost", "http://segment.localhost"),
        ("http://[::1]:8889", "http://[::1]:8889"),
    ],
)
def test_safe_urls_are_kept_without_their_last_slash(url: str, checked: str) -> None:
    assert check_base_url("SEGMENT_IDENTITY_URL", url) == checked


@pytest.mark.parametrize(
    "url",
    [
        "",
        "id.segmentapis.com",
        "//id.segmentapis.com",
        "http://id.segmentapis.com",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "https://user:secret@id.example",
        "https://id.example/?x=1",
        "https://id.example/#x",
        "https://id.example/?",
        "https://id.example:port",
        "https://[broken",
        "https://id example",
        "https://id.example/\n",
        "file:///etc/passwd",
    ],
)
def test_other_urls_are_refused_by_name_and_never_repeated(url: str) -> None:
    with pytest.raises(BaseUrlRefused, match="SEGMENT_IDENTITY_URL") as caught:
        check_base_url("SEGMENT_IDENTITY_URL", url)
    assert "secret" not in str(caught.value)


def test_only_this_machine_is_loopback() -> None:
    assert is_loopback("127.9.9.9")
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("localhost.example")
