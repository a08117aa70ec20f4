"""One HTTP exchange of a delivery: reading its headers, and answering in the form that Segment shows (contract 5.5)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]


class Headers:
    """The headers of an ASGI scope, by lower-case name."""

    def __init__(self, raw: RawHeaders) -> None:
        self._raw = tuple(raw)
        self._first = dict(reversed(self._raw))

    def all(self, name: bytes) -> list[bytes]:
        """Every value of a header."""
        return [value for key, value in self._raw if key == name]

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header."""
        return self._first.get(name)


def path_below_mount(scope: Scope) -> str:
    """What the path holds below the mount point; a slash at the end is tolerated, never redirected (contract 5.2)."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).strip("/")


async def answer(send: Send, status: int, message: str, *, extra: RawHeaders = ()) -> None:
    """Answer with a JSON message, which Segment shows to the customer on a 4xx or 5xx."""
    if status == 202 and message == _ACCEPTED:
        headers, body = _ACCEPTED_HEADERS, _ACCEPTED_BODY
    else:
        body = _body(message)
        headers = [*_headers(body), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _body(message: str) -> bytes:
    return json.dumps({"message": message}).encode()


def _headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]


_ACCEPTED = "Accepted."
_ACCEPTED_BODY = _body(_ACCEPTED)
_ACCEPTED_HEADERS = _headers(_ACCEPTED_BODY)
