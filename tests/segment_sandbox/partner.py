"""A partner's endpoint that keeps the bytes it receives and answers as told."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Received:
    """One request, byte for byte."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def event(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@dataclass
class Answer:
    """What to answer. `hang` answers never, `drop` closes the connection instead."""

    status: int = 202
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False


class Partner:
    """Answers in the order of `answers`, then with `usual`."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.answers: deque[Answer] = deque()
        self.usual = Answer()
        self.url = ""
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def events(self) -> list[dict[str, object]]:
        return [received.event for received in self.received]

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}/subscriptions/acme-crm"
        try:
            yield self.url
        finally:
            server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await server.wait_closed()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in head[1:] if line)]
        length = int({name.lower(): value for name, value in headers}["content-length"])
        self.received.append(Received(head[0], headers, await reader.readexactly(length)))
        answer = self.answers.popleft() if self.answers else self.usual
        if answer.hang:
            await reader.read(1)
            return False
        if answer.drop:
            writer.transport.abort()
            return False
        lines = [
            f"HTTP/1.1 {answer.status} Answer",
            f"Content-Length: {len(answer.body)}",
            f"Content-Type: {answer.content_type}",
            *(f"{name}: {value}" for name, value in answer.headers.items()),
        ]
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + answer.body)
        await writer.drain()
        return True
