"""Bounds of a request head, and removal of an offer to upgrade from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

LARGEST_HEAD_BYTES = 64 * 1024
MOST_FIELDS = 100
HEAD_SECONDS = 10.0
"""From the first byte of a head to its end."""


class HeadTooLarge(Exception):
    """A request head is over its limits; answered 431 (RFC 6585, section 5)."""


class RequestHead:
    """Tells how much of a head has arrived, and limits how long that takes.

    It holds no reference to its connection but while a timer runs: a connection, and the key in its headers, are freed
    without the garbage collector.
    """

    __slots__ = ("_bytes", "_is_large_read", "_loop", "_reading", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reading = self._is_large_read = False
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def reading(self, received: int) -> None:
        """Note that a read is about to be parsed."""
        self._is_large_read = received > LARGEST_HEAD_BYTES

    def begin(self) -> None:
        """Note that a head begins."""
        self._reading = True
        self._bytes = 0

    def complete(self, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Note that a head is complete.

        Raises:
            HeadTooLarge: it is over its limit. One that came in a single small read cannot be.
        """
        may_be_large = self._is_large_read or self._timer is not None
        self.end()
        if may_be_large and size_of(url, headers) > LARGEST_HEAD_BYTES:
            raise HeadTooLarge

    def is_too_large(
        self, received: int, url: bytes, headers: Sequence[tuple[bytes, bytes]], *, late: Callable[[], None]
    ) -> bool:
        """Return True if a head that is not complete after a read is over its limit.

        Args:
            late: called when the head is not complete in time, counted from its first read.
        """
        if not self._reading:
            return False
        if self._timer is None:  # this read began it
            self._timer = self._loop.call_later(HEAD_SECONDS, late)
            self._bytes = size_of(url, headers)
        else:
            self._bytes += received
        return self._bytes > LARGEST_HEAD_BYTES

    def end(self) -> None:
        """Stop the timer."""
        self._reading = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


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
