"""The whole service behind its own HTTP server, on real connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from enable_with_segment.db.event_log.records import EventFilter
from enable_with_segment.subscriptions.receiving.load_shedding import LoadShedding
from enable_with_segment.subscriptions.receiving.server.protocol import DeliveryProtocol
from tests.journey.deployment import basic
from tests.oauth_app.operations import Operations, running_service

PATH = "/subscriptions/acme-crm"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def without_date(self) -> tuple[int, dict[str, str], bytes]:
        """What may be compared with another answer."""
        return self.status, {name: value for name, value in self.headers.items() if name != "date"}, self.body


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, *pieces: bytes) -> Answer:
        """Send pieces by themselves, and return the answer to them."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)
        return await self.answer()

    async def answer(self) -> Answer:
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:-2])
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(head[0].split()[1]), headers, body)

    async def is_closed(self) -> bool:
        """Wait until the server closes it, and tell whether nothing more came."""
        async with asyncio.timeout(20):
            return await self.reader.read() == b""


@dataclass
class Door:
    """The whole service behind the server that takes and refuses by itself."""

    service: Operations
    server: uvicorn.Server
    key: str
    connections: list[Connection] = field(default_factory=list)

    @property
    def refusal(self) -> LoadShedding:
        refusal: LoadShedding = self.service.app.load_shedding  # type: ignore[attr-defined]
        return refusal

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Let in as many as may be while the block lasts."""
        limit = self.refusal.concurrency_limit
        sizes = [limit.acquire(b"0", None) for _ in range(limit.most - limit.running)]
        try:
            yield
        finally:
            for size in sizes:
                assert size is not None
                limit.release(size)

    def ask_for_no_stop(self) -> None:
        """Let the normal way be one without waiting: the emergency stop may have to be read first."""
        app: Any = self.service.app
        app.webhook = app.webhook._webhook

    def stop_the_clocks(self) -> None:
        """Let what is read of the key and of the emergency stop from now on stay fresh, however slow the machine is."""
        panic, recognition = self.service.services.panic, self.service.services.api_keys.key_cache
        read_at, looked_up_at = panic._clock(), recognition._monotonic()
        panic._clock = lambda: read_at
        recognition._monotonic = lambda: looked_up_at

    async def connect(self) -> Connection:
        port = self.server.servers[0].sockets[0].getsockname()[1]
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        self.connections.append(connection)
        return connection

    @property
    def protocols(self) -> list[Any]:
        """The server's side of the open connections."""
        return list(self.server.server_state.connections)

    @property
    def requests_made(self) -> int:
        """How many of the open connections carried something that took the normal way."""
        return sum(isinstance(connection.cycle, RequestResponseCycle) for connection in self.protocols)

    def counted(self) -> dict[tuple[str, str], float]:
        """The answers by component and status."""
        (family,) = [one for one in self.service.services.metrics.families() if one.name.endswith("deliveries_total")]
        return {(sample.labels["component"], sample.labels["status"]): sample.value for sample in family.samples}

    def delivery(
        self,
        message_id: str = "m-1",
        *,
        path: str = PATH,
        method: str = "POST",
        version: str = "1.1",
        pad: str = "",
        headers: tuple[str, ...] = (),
    ) -> bytes:
        """A delivery as it goes over the wire."""
        event = {"type": "track", "event": "Paid", "userId": "u", "messageId": message_id, "pad": pad}
        body = json.dumps(event).encode()
        lines = [f"{method} {path} HTTP/{version}", "Host: service", "Content-Type: application/json"]
        lines += [f"Authorization: {basic(self.key)}", f"Content-Length: {len(body)}", *headers]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def until(it_is_so: Callable[[], bool]) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(20):
        while not it_is_so():  # noqa: ASYNC110
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def open_door(folder: Path, *, environment: dict[str, str] | None = None, **options: Any) -> AsyncIterator[Door]:
    """Run a service and serve it while the block lasts; ``options`` are uvicorn's."""
    async with (
        running_service(folder, **(environment or {})) as service,
        door_of(service, (await service.api_key())[1], **options) as door,
    ):
        yield door


@contextlib.asynccontextmanager
async def door_of(service: Operations, key: str, **options: Any) -> AsyncIterator[Door]:
    """Serve a running service while the block lasts."""
    config: dict[str, Any] = {"http": DeliveryProtocol, "access_log": False, "timeout_keep_alive": 600, **options}
    server = uvicorn.Server(
        uvicorn.Config(service.app, port=0, log_config=None, lifespan="off", proxy_headers=False, **config)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  uvicorn offers no event
        await asyncio.sleep(0.01)
    door = Door(service, server, key)
    try:
        yield door
    finally:
        server.should_exit = True
        async with asyncio.timeout(20):
            await serving
        for connection in door.connections:
            connection.writer.close()
            with contextlib.suppress(ConnectionError):
                await connection.writer.wait_closed()


async def warm(door: Door, connection: Connection | None = None) -> Connection:
    """A connection, with the key and the emergency stop looked up a moment ago."""
    connection = connection or await door.connect()
    for number in range(2):
        assert (await connection.ask(door.delivery(f"warm-{number}"))).status == 202
    return connection


async def stored(door: Door) -> list[str | None]:
    """The messages in the log, oldest first."""
    found = await door.service.services.event_log.find(EventFilter(), limit=1_000)
    return [record.message_id for record in sorted(found, key=lambda record: record.id)]


def request(
    body: bytes, *headers: str, key: str, path: str = PATH, method: str = "POST", length: int | None = None
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: service", f"Authorization: {basic(key)}"]
    lines += [f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
