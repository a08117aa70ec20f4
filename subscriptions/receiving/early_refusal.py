"""What an HTTP server has to know to refuse deliveries by itself, before it makes a request of them.

Making a request of what arrives costs the server more than the rest of a refusal, so under overload it pays to ask
here first. What is answered is what ``Webhook`` answers in the same situation, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable

from subscriptions.receiving.exchange import RawHeaders, message_body, message_headers
from subscriptions.receiving.pressure import Pressure

STATUS = 503
MESSAGE = "Too many deliveries at the same moment. Try again."
_STATUS_LINE = b"HTTP/1.1 503 Service Unavailable\r\n"


class EarlyRefusal:
    """The decision, the answer, and whoever wants to know of it.

    Args:
        pressure: tells what is too much; the webhook's own.
        answered: told the component and the status of each answer.
        retry_after_seconds: what the answer says.
        body_bytes: beyond so many bytes a refused body is not waited for any more.
        body_seconds: nor after so long.
    """

    def __init__(
        self,
        pressure: Pressure,
        answered: Callable[[str, int], None],
        *,
        retry_after_seconds: int,
        body_bytes: int,
        body_seconds: float,
    ) -> None:
        self.pressure = pressure
        self.answered = answered
        self.body_bytes = body_bytes
        self.body_seconds = body_seconds
        self._body = message_body(MESSAGE)
        self._headers = (*message_headers(self._body), (b"retry-after", str(retry_after_seconds).encode()))
        self._server_headers: RawHeaders | None = None
        self._kept = self._last = b""

    def answer(self, server_headers: RawHeaders, *, last: bool) -> bytes:
        """Return the answer as it goes over the wire (RFC 9112, section 4).

        It is put together once for each list of ``server_headers`` (the date), which must not change afterwards.

        Args:
            last: the connection is closed after it, and the answer says so.
        """
        if server_headers is not self._server_headers:
            lines = b"".join(b"%b: %b\r\n" % header for header in (*server_headers, *self._headers))
            self._kept = _STATUS_LINE + lines + b"\r\n" + self._body
            self._last = _STATUS_LINE + lines + b"connection: close\r\n\r\n" + self._body
            self._server_headers = server_headers
        return self._last if last else self._kept
