"""Reading a delivery's body within limits, whatever its headers promise."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from enable_with_segment.components.errors import DeliveryRefused

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]


_PLAIN_BYTES_IN_A_TURN = 1024 * 1024


class ClientGone(Exception):
    """The sender closed the connection before the body was complete; nobody is left to answer."""


class _Identity:
    """Collects a body as it is."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0

    async def feed(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > self._limit:
            raise _too_large(self._limit)
        self._chunks.append(chunk)

    def finish(self) -> bytes:
        return b"".join(self._chunks)


class _Gzip:
    """Unpacks a body while it arrives; never holds more than the limit, however well it was packed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._plain = bytearray()
        self._packed = 0
        self._member = zlib.decompressobj(wbits=31)

    async def feed(self, chunk: bytes) -> None:
        self._packed += len(chunk)
        if self._packed > self._limit:
            raise _too_large(self._limit)
        while chunk:
            if self._member.eof:
                chunk = chunk.lstrip(b"\0")  # some tools pad with zeros behind a member
                if not chunk:
                    return
                self._member = zlib.decompressobj(wbits=31)
            try:
                # One byte more than allowed is enough to know that there is too much.
                most = min(self._limit - len(self._plain) + 1, _PLAIN_BYTES_IN_A_TURN)
                plain = self._member.decompress(chunk, most)
            except zlib.error:
                raise DeliveryRefused(400, "The body is not valid gzip.") from None
            self._plain += plain
            if len(self._plain) > self._limit:
                raise _too_large(self._limit)
            chunk = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if len(plain) == most:
                await asyncio.sleep(0)

    def finish(self) -> bytes:
        if not self._member.eof:
            raise DeliveryRefused(400, "The gzip body is incomplete.")
        return bytes(self._plain)


def check_content_type(value: bytes | None) -> None:
    """Accept every JSON type, vendor types and a missing header (contract case 69).

    Raises:
        DeliveryRefused: 415 for anything else.
    """
    if value is not None and value.strip() and b"json" not in value.lower():
        raise DeliveryRefused(415, "The body has to be JSON (Content-Type: application/json).")


async def read_body(receive: Receive, *, encoding: bytes | None, content_length: bytes | None, limit: int) -> bytes:
    """Read the body, unpacked if it is gzip.

    Args:
        limit: the most bytes, packed and unpacked; checked while reading, so a wrong length or a well-packed bomb
            costs no more memory than this.

    Raises:
        DeliveryRefused: 413 over the limit, 415 for another encoding, 400 for broken gzip.
        ClientGone: the sender hung up.
    """
    name = encoding.strip().lower() if encoding else b""
    if name not in (b"", b"identity", b"gzip", b"x-gzip"):
        raise DeliveryRefused(415, "The body's Content-Encoding has to be gzip or identity.")
    if content_length is not None and content_length.isdigit() and int(content_length[:20]) > limit:
        raise _too_large(limit)
    message = await receive()
    if not name and not message.get("more_body") and message["type"] == "http.request":
        body: bytes = message.get("body", b"")  # in one piece and not packed, as most are
        if len(body) > limit:
            raise _too_large(limit)
        return body
    collector = _Gzip(limit) if name.endswith(b"gzip") else _Identity(limit)
    while message["type"] == "http.request":
        await collector.feed(message.get("body", b""))
        if not message.get("more_body", False):
            return collector.finish()
        message = await receive()
    raise ClientGone


def _too_large(limit: int) -> DeliveryRefused:
    return DeliveryRefused(413, f"The body is larger than {limit} bytes.")
