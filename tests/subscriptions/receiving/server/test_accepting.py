"""New connections are taken in together, however long a turn of the event loop lasts."""

from __future__ import annotations

import asyncio
import socket

from enable_with_segment.subscriptions.receiving.server.accepting import new_loop

CONNECTIONS = 100
TURNS = 10


def test_connections_that_wait_are_taken_in_within_a_few_turns_of_the_loop() -> None:
    made: list[asyncio.BaseTransport] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    async def main() -> int:
        server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0, backlog=2 * CONNECTIONS)
        address = server.sockets[0].getsockname()
        clients = [socket.create_connection(address) for _ in range(CONNECTIONS)]
        for _ in range(TURNS):
            await asyncio.sleep(0)
        taken_in = len(made)
        for client in clients:
            client.close()
        for transport in made:
            transport.close()
        server.close()
        await server.wait_closed()
        return taken_in

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(main()) == CONNECTIONS
