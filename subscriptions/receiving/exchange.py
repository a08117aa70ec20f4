"""One HTTP exchange of a delivery: reading its headers, and answering in the form that Segment shows (contract 5.5)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]

WAITING_SINCE = "subscriptions.waiting_since"
"""Where a scope says since when, by the event loop's clock, its delivery has been waiting for our stores, if it has."""
NO_BODY = ((b"content-length", b"0"),)
"""The headers of an answer that says nothing but its status."""


class Headers:
    """The headers of an ASGI scope, by lower-case name."""

    __slots__ = ("_raw", "_repeated", "get")

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self._raw = raw
        first = dict(raw)
        self._repeated = len(first) != len(raw)
        if self._repeated:
            first = dict(reversed(raw))
        self.get: Callable[[bytes], bytes | None] = first.get
        """Return the first value of a header, or ``None``."""

    def all(self, name: bytes) -> list[bytes]:
        """Every value of a header."""
        return [value for key, value in self._raw if key == name]

    def only(self, name: bytes) -> bytes | None:
        """The value of a header that is there once; ``None`` otherwise."""
        return self.get(name) if not self._repeated or len(self.all(name)) == 1 else None


def path_below_mount(scope: Scope) -> str:
    """What the path holds below the mount point; a slash at the end is tolerated, never redirected (contract 5.2)."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).strip("/")


async def answer(send: Send, status: int, message: str, *, extra: RawHeaders = ()) -> None:
    """Answer with a JSON message, which Segment shows to the customer on a 4xx or 5xx."""
    body = message_body(message)
    await send({"type": "http.response.start", "status": status, "headers": [*message_headers(body), *extra]})
    await send({"type": "http.response.body", "body": body})


async def accept(send: Send) -> None:
    """Answer 202 in the shortest way; nobody is shown what it could say."""
    await send({"type": "http.response.start", "status": 202, "headers": NO_BODY})
    await send({"type": "http.response.body", "body": b""})


def message_body(message: str) -> bytes:
    """Return the body of an answer."""
    return json.dumps({"message": message}).encode()


def message_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers that every answer has."""
    return [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
