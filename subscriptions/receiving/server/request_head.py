"""Bounds of a request head, and an offer to upgrade that is taken out of it. Pure functions and constants."""

from __future__ import annotations

from collections.abc import Iterable

LARGEST_HEAD_BYTES = 64 * 1024
MOST_FIELDS = 100
HEAD_SECONDS = 10.0
"""From the first byte of a head to its end."""


class HeadTooLarge(Exception):
    """A request head is over its limits; answered 431 (RFC 6585, section 5)."""


def size_of(url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return how many bytes a head takes, but for its request line's method and version."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def without_upgrade(method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the head of a request that offers an upgrade as if it did not (RFC 9110, section 7.8: it may be ignored).

    Args:
        headers: lower-case names; values as the parser gave them, without line breaks.
    """
    lines = [b"%b %b HTTP/%b\r\n" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"upgrade":
            continue
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() != b"upgrade")  # noqa: PLW2901
            if not value:
                continue
        lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(b"\r\n")
    return b"".join(lines)
