"""A way to PostgreSQL on which connections go silent: nothing more comes, and nobody says that it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

from sqlalchemy.engine import make_url


class Relay:
    """Lets through what is said on a connection until that is silenced; new connections are served."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._flows: list[asyncio.Event] = []
        self._to_server: list[asyncio.StreamWriter] = []
        self._served: set[asyncio.Task[object]] = set()
        self._word: bytes | None = None

    def silence(self) -> None:
        """Let nothing more through on any of the connections that there are."""
        self._word = None
        for flows in self._flows:
            flows.clear()

    def silence_at(self, word: bytes) -> None:
        """Silence the connections once somebody says a word; it is not passed on."""
        self._word = word

    def hang_up(self) -> None:
        """Let the server notice that nobody is there any more."""
        for questions in self._to_server:
            questions.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            self._served.add(task)
        self._flows.append(flows := asyncio.Event())
        flows.set()
        answers, questions = await asyncio.open_unix_connection(self._path)
        self._to_server.append(questions)
        await asyncio.gather(self._pass_on(flows, reader, questions), self._pass_on(flows, answers, writer))

    async def end(self) -> None:
        """Let everything through again, and wait until it is over."""
        for flows in self._flows:
            flows.set()
        self.hang_up()
        await asyncio.gather(*self._served)

    async def _pass_on(self, flows: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError):
            while data := await reader.read(65_536):
                if self._word is not None and self._word in data:
                    self.silence()
                await flows.wait()
                writer.write(data)


@asynccontextmanager
async def relayed(postgresql_url: str) -> AsyncIterator[tuple[Relay, str]]:
    """Yield a relay to a database, and the URL that leads through it."""
    url = make_url(postgresql_url)
    relay = Relay(f"{url.query['host']}/.s.PGSQL.5432")
    async with await asyncio.start_server(relay.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        try:
            yield relay, f"postgresql+asyncpg://postgres@127.0.0.1:{port}/{url.database}?ssl=disable"
        finally:
            await relay.end()
