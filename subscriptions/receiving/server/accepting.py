"""Taking new connections in, many at a time.

uvloop takes in one new connection in each turn of the event loop. On a busy service a turn lasts long, so senders that
open a new connection wait for seconds, and the kernel drops those that find its queue full. Here all that wait are
taken in at once, as asyncio's own loop does it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

LOOP = "enable_with_segment.subscriptions.receiving.server.accepting:new_loop"
"""What uvicorn is told to use as its loop."""
_AT_ONCE = 500
_PAUSE_SECONDS = 1.0


def new_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of a server process: uvloop's where it is installed."""
    try:
        import uvloop  # noqa: PLC0415  it is not there on every platform
    except ImportError:
        return asyncio.new_event_loop()

    class Loop(uvloop.Loop):
        async def create_server(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
            server: Any = await super().create_server(protocol_factory, *args, **options)
            if options.get("ssl") is not None:
                return server
            return _Server(server, [_Acceptor(self, place, protocol_factory) for place in server.sockets])

    return Loop()


class _Acceptor:
    """Takes in what waits at a listening socket, beside whoever else does."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listener: Any, protocol_factory: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._listener = socket.socket(fileno=os.dup(listener.fileno()))
        self._listener.setblocking(False)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._go_on()

    def close(self) -> None:
        """Take nothing more in."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _go_on(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no file descriptors are left: some will be
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._go_on)
                return
            connection.setblocking(False)
            if connection.family != getattr(socket, "AF_UNIX", None):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol_factory, connection)
        except OSError:  # it was closed before it was taken in
            connection.close()


class _Server:
    """A server whose acceptors end with it."""

    def __init__(self, server: Any, acceptors: list[_Acceptor]) -> None:
        self._server = server
        self._acceptors = acceptors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def close(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors = []
        self._server.close()
