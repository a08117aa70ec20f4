"""A sender with a ledger: what was acknowledged must be in the log, whatever happens to the receiver."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_PAUSE_SECONDS = 0.1
_AGAIN_AFTER_SECONDS = 0.05
_PATIENCE_SECONDS = 5.0
_DELETE_EVERY = 32
DELETE = "crash-delete-"
"""What the message ids of deletes begin with; each is for a person of its own."""


@dataclass
class Ledger:
    """What was sent and what of it was acknowledged, by message id."""

    sent: int = 0
    acknowledged: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    cut_off: int = 0
    """Deliveries that got no answer."""

    @property
    def wrong(self) -> dict[int, int]:
        """Answers that nobody should get: a 4xx would lose the event for good, and our own trouble is 503."""
        return {status: count for status, count in self.statuses.items() if not 200 <= status < 300 and status != 503}


class Sender:
    """Sends events in waves, one on each connection at the same moment, and never gives up.

    So many arrive together that over PostgreSQL the next group is on its way to the store before the last is answered.
    """

    def __init__(self, url: str, key: str, *, connections: int = 64) -> None:
        self.ledger = Ledger()
        address = urlsplit(url)
        credentials = b64encode(f"{key}:".encode()).decode()
        self._head = (
            f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Basic {credentials}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        self._connections = [_Connection(str(address.hostname), int(address.port or 80)) for _ in range(connections)]
        self._stopping = False

    async def run(self) -> None:
        """Send until :meth:`stop`."""
        try:
            while not self._stopping:
                await asyncio.gather(*(self._send(connection) for connection in self._connections))
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            for connection in self._connections:
                connection.close()

    def stop(self) -> None:
        """Send nothing new."""
        self._stopping = True

    async def _send(self, connection: _Connection) -> None:
        self.ledger.sent += 1
        message_id, event = _event(self.ledger.sent)
        body = json.dumps(event)
        message = f"{self._head}{len(body)}\r\n\r\n{body}".encode()
        # A delivery that was cut off is sent again under the same id, as Segment does.
        while not await self._deliver(connection, message_id, message) and not self._stopping:  # noqa: ASYNC110  until it is taken
            await asyncio.sleep(_AGAIN_AFTER_SECONDS)

    async def _deliver(self, connection: _Connection, message_id: str, message: bytes) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                status = await connection.ask(message)
        except (OSError, EOFError):
            connection.close()
            self.ledger.cut_off += 1
            return False
        self.ledger.statuses[status] += 1
        if 200 <= status < 300:
            self.ledger.acknowledged.append(message_id)
            return True
        return False


class _Connection:
    """One connection, opened when it is needed. A client library takes longer to send than the service to store."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, message: bytes) -> int:
        """Send a message, and return the status of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(message)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
        await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(head[0].split()[1])

    def close(self) -> None:
        """Close it; the next message opens another one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _event(number: int) -> tuple[str, dict[str, str]]:
    """Return a message id and its event."""
    if number % _DELETE_EVERY == 0:
        message_id = f"{DELETE}{number}"
        return message_id, {"type": "delete", "userId": f"gone-{number}", "messageId": message_id}
    message_id = f"crash-{number}"
    return message_id, {"type": "track", "event": "Order Completed", "userId": "u-1", "messageId": message_id}
