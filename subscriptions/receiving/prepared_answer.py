"""An answer as it goes over the wire, for an HTTP server that writes it by itself."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from enable_with_segment.subscriptions.receiving.exchange import RawHeaders


class PreparedAnswer:
    """Put together once for each list of the server's own headers (the date), which must not change afterwards.

    Args:
        headers: the answer's, its ``content-length`` among them.
    """

    __slots__ = ("_body", "_headers", "_kept", "_last", "_server_headers", "_status_line", "status")

    def __init__(self, status: int, headers: RawHeaders, body: bytes = b"") -> None:
        self.status = status
        self._status_line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        self._headers = tuple(headers)
        self._body = body
        self._server_headers: Sequence[tuple[bytes, bytes]] | None = None
        self._kept = self._last = b""

    def on_the_wire(self, server_headers: Sequence[tuple[bytes, bytes]], *, last: bool) -> bytes:
        """Return the whole answer (RFC 9112, section 4).

        Args:
            last: the connection is closed after it, and the answer says so.
        """
        if server_headers is not self._server_headers:
            lines = b"".join(b"%b: %b\r\n" % header for header in (*server_headers, *self._headers))
            self._kept = self._status_line + lines + b"\r\n" + self._body
            self._last = self._status_line + lines + b"connection: close\r\n\r\n" + self._body
            self._server_headers = server_headers
        return self._last if last else self._kept
