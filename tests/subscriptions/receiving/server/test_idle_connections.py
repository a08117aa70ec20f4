"""Connections on which nothing happens, and what arrives at the very moment that they are closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from enable_with_segment.oauth_app.cli.serve import KEEP_ALIVE_SECONDS, server_config
from enable_with_segment.subscriptions.receiving.server.accepting import new_loop
from tests.subscriptions.receiving.server.door import Door, open_door, stored, until, warm

GET = b"GET /healthz HTTP/1.1\r\nHost: service\r\n\r\n"


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, new_loop], ids=["asyncio", "ours"])
@pytest.mark.parametrize("last", ["taken", "refused", "request"])
def test_what_is_there_when_a_rest_ends_is_answered(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop], last: str
) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as door:
            connection = await warm(door)
            if last == "request":
                assert (await connection.ask(GET)).status == 200
            elif last == "refused":
                with door.full():
                    assert (await connection.ask(door.delivery())).status == 503
            (protocol,) = door.protocols
            connection.writer.write(door.delivery("in time"))
            protocol.timeout_keep_alive_handler()
            assert (await connection.answer()).status == 202
            assert (await stored(door))[-1] == "in time"
            protocol.timeout_keep_alive_handler()
            assert await connection.is_closed()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


async def test_a_rest_goes_on_behind_half_a_message(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        connection = await warm(door)
        (protocol,) = door.protocols
        delivery = door.delivery("in pieces")
        connection.writer.write(delivery[:20])
        protocol.timeout_keep_alive_handler()
        assert (await connection.ask(delivery[20:])).status == 202


async def test_a_sender_who_is_gone_is_let_go(door: Door) -> None:
    connection = await warm(door)
    (protocol,) = door.protocols
    connection.writer.close()
    protocol.timeout_keep_alive_handler()
    await until(lambda: not door.protocols)
    protocol.timeout_keep_alive_handler()


@pytest.mark.parametrize("last", ["nothing", "taken", "request"])
async def test_what_is_there_when_the_server_stops_is_answered(door: Door, last: str) -> None:
    await warm(door)
    connection = await door.connect()
    await until(lambda: len(door.protocols) == 2)
    if last == "taken":
        assert (await connection.ask(door.delivery("before"))).status == 202
    elif last == "request":
        assert (await connection.ask(GET)).status == 200
    connection.writer.write(door.delivery("at the end"))
    for protocol in door.protocols:
        protocol.shutdown()
    assert (await connection.answer()).status == 202
    assert await connection.is_closed()
    assert (await stored(door))[-1] == "at the end"


async def test_what_is_there_when_a_full_server_stops_is_refused(door: Door) -> None:
    connection = await warm(door)
    (protocol,) = door.protocols
    with door.full():
        connection.writer.write(door.delivery())
        protocol.shutdown()
        assert (await connection.answer()).status == 503
    assert await connection.is_closed()


async def test_a_server_that_stops_waits_for_no_rest_of_a_message(door: Door) -> None:
    connection = await warm(door)
    (protocol,) = door.protocols
    connection.writer.write(door.delivery()[:20])
    protocol.shutdown()
    assert await connection.is_closed()


def test_senders_and_proxies_close_their_connections_first() -> None:
    """AWS, nginx and others keep a connection that rests for 60 s and may use it until then."""
    assert KEEP_ALIVE_SECONDS > 60
    assert server_config("127.0.0.1", 8888, workers=1).timeout_keep_alive == KEEP_ALIVE_SECONDS
    assert f"{KEEP_ALIVE_SECONDS} s" in (Path(__file__).parents[4] / "docs" / "deploy.md").read_text(encoding="utf-8")
