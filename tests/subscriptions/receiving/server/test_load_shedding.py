"""Deliveries that are refused before they become requests, on real connections, beside those that become some."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from enable_with_segment.oauth_app.cli.serve import HTTP
from enable_with_segment.subscriptions.receiving.concurrency_limit import ConcurrencyLimit
from enable_with_segment.subscriptions.receiving.server.accepting import new_loop
from enable_with_segment.subscriptions.receiving.server.protocol import DeliveryProtocol
from tests.journey.deployment import basic
from tests.subscriptions.receiving.server.door import PATH, Door, open_door, until


async def test_the_answer_is_that_of_the_normal_way(door: Door) -> None:
    early, normal = await door.connect(), await door.connect()
    with door.full():
        refused = await early.ask(door.delivery())
        assert door.requests_made == 0
        spelled_otherwise = await normal.ask(door.delivery(path="/subscriptions/acme%2Dcrm"))
        assert door.requests_made == 1
    assert refused.without_date == spelled_otherwise.without_date
    assert list(refused.headers) == list(spelled_otherwise.headers)
    assert refused.status == 503
    assert refused.headers["retry-after"] == "10"
    assert refused.headers["cache-control"] == "no-store"
    assert refused.headers["date"]
    assert json.loads(refused.body) == {"message": "Too many deliveries at the same moment. Try again."}


async def test_one_connection_carries_many_refused_and_taken_in_turn(door: Door) -> None:
    connection = await door.connect()
    with door.full():
        for number in range(50):
            assert (await connection.ask(door.delivery(f"r-{number}"))).status == 503
    for number in range(5):
        assert (await connection.ask(door.delivery(f"t-{number}"))).status == 202
        with door.full():
            assert (await connection.ask(door.delivery(f"r-{number}"))).status == 503
    assert door.counted() == {("acme-crm", "503"): 55, ("acme-crm", "202"): 5}
    assert door.server.server_state.total_requests == 60
    assert door.refusal.concurrency_limit.running == 0


async def test_it_is_counted_under_the_component_if_there_is_one(door: Door) -> None:
    connection = await door.connect()
    with door.full():
        for path in (PATH + "/", PATH + "?source=web", "/subscriptions/nobody", "/subscriptions/"):
            assert (await connection.ask(door.delivery(path=path))).status == 503
        assert door.requests_made == 0
    assert door.counted() == {("acme-crm", "503"): 2, ("", "503"): 2}


async def test_pipelined_requests_are_answered_in_order(door: Door) -> None:
    connection = await door.connect()
    get = b"GET /healthz HTTP/1.1\r\nHost: service\r\n\r\n"
    with door.full():
        connection.writer.write(door.delivery() * 2 + get + door.delivery() + get + door.delivery())
        assert [(await connection.answer()).status for _ in range(6)] == [503, 503, 200, 503, 200, 503]
        assert (await connection.ask(door.delivery())).status == 503
    assert (await connection.ask(door.delivery())).status == 202


async def test_a_request_behind_a_refused_one_is_not_cut_off_as_idle(tmp_path: Path) -> None:
    async with open_door(tmp_path, timeout_keep_alive=0) as door:
        connection = await door.connect()
        with door.full():
            connection.writer.write(door.delivery() + b"GET /readyz HTTP/1.1\r\nHost: service\r\n\r\n")
            assert (await connection.answer()).status == 503
            assert (await connection.answer()).status == 200
        assert await connection.is_closed()


async def test_idle_connections_end_after_a_refusal_as_after_any_answer(tmp_path: Path) -> None:
    async with open_door(tmp_path, timeout_keep_alive=0) as door:
        connection = await door.connect()
        with door.full():
            assert (await connection.ask(door.delivery())).status == 503
        assert await connection.is_closed()


async def test_a_body_passes_by_in_whatever_pieces_it_comes(door: Door) -> None:
    connection = await door.connect()
    whole = door.delivery(pad="x" * 200)
    with door.full():
        assert (await connection.ask(*(whole[at : at + 1] for at in range(len(whole))))).status == 503
        chunked = b"POST %b HTTP/1.1\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH.encode()
        assert (await connection.ask(chunked, b"5\r\nabcde\r", b"\n3\r\nfgh\r\n", b"0\r\n\r\n")).status == 503
        large = door.delivery(pad="x" * 500_000)
        assert (await connection.ask(large)).status == 503
        assert (await connection.ask(large[:200], large[200:70_000], large[70_000:])).status == 503
        assert door.requests_made == 0
    assert (await connection.ask(door.delivery())).status == 202


@pytest.mark.parametrize(
    ("version", "headers"),
    [("1.0", ()), ("1.0", ("Connection: keep-alive",)), ("1.1", ("Connection: close",))],
    ids=["old", "old that would stay", "last"],
)
async def test_a_connection_is_closed_when_its_sender_says_so(
    door: Door, version: str, headers: tuple[str, ...]
) -> None:
    early, normal = await door.connect(), await door.connect()
    with door.full():
        refused = await early.ask(door.delivery(version=version, headers=headers))
        assert await early.is_closed()
        path = "/subscriptions/acme%2Dcrm"
        answered = await normal.ask(door.delivery(path=path, version=version, headers=headers))
    assert refused.headers["connection"] == "close"
    assert refused.without_date == answered.without_date


async def test_nothing_is_taken_after_the_last_answer(door: Door) -> None:
    door.ask_for_no_stop()
    connection = await door.connect()
    with door.full():
        last = door.delivery(headers=("Expect: 100-continue",))
        other = door.delivery(path="/subscriptions/acme%2Dcrm")
        assert (await connection.ask(last + door.delivery() + other)).status == 503
        assert await connection.is_closed()
    assert door.counted() == {("acme-crm", "503"): 1}


async def test_a_body_that_waits_to_be_asked_for_is_not_asked_for(door: Door) -> None:
    connection = await door.connect()
    head = door.delivery(headers=("Expect: 100-continue",)).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    with door.full():
        refused = await connection.ask(head)
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert await connection.is_closed()


async def test_a_body_over_the_limit_is_not_waited_for(door: Door) -> None:
    announced, sent = await door.connect(), await door.connect()
    door.refusal.body_bytes = 1_000
    with door.full():
        head = b"POST %b HTTP/1.1\r\nHost: service\r\n" % PATH.encode()
        refused = await announced.ask(head + b"Content-Length: 1001\r\n\r\n")
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert await announced.is_closed()
        refused = await sent.ask(head + b"Transfer-Encoding: chunked\r\n\r\n", b"3e8\r\n", b"x" * 1_000, b"\r\n1\r\nx")
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert await sent.is_closed()
    assert door.counted() == {("acme-crm", "503"): 2}


async def test_a_body_that_never_ends_is_not_waited_for_either(door: Door) -> None:
    connections = [await door.connect(), await door.connect()]
    door.refusal.body_seconds = 0.05
    with door.full():
        for connection, sent in zip(connections, (-1, -60), strict=True):
            refused = await connection.ask(door.delivery()[:sent])
            assert (refused.status, refused.headers["connection"]) == (503, "close")
            assert await connection.is_closed()


@pytest.mark.parametrize(
    "request_sent",
    [
        b"POST /subscriptions/acme-crm HTTP/1.1\r\nHost: service\r\nContent-Length: x\r\n\r\n",
        b"POST /subscriptions/acme-crm HTTP/1.1\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
        b"POST /subscriptions/acme-crm HTTP/1.1\r\nHo st: service\r\nContent-Length: 1\r\n\r\n1",
        b"POST /subscriptions/acme-crm HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /subscriptions/acme-crm?a b HTTP/1.1\r\nHost: service\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["length", "chunk", "header", "two lengths", "address"],
)
async def test_what_is_no_http_is_answered_as_ever(door: Door, request_sent: bytes) -> None:
    connection = await door.connect()
    with door.full():
        assert (await connection.ask(request_sent)).status == 400
        assert await connection.is_closed()
    assert door.counted() == {}


async def test_everything_else_is_answered_while_deliveries_are_refused(door: Door) -> None:
    connection = await door.connect()
    with door.full():
        for path, status in (("/healthz", 200), ("/", 200), ("/nothing", 404), ("/subscriptions", 404)):
            answer = await connection.ask(f"GET {path} HTTP/1.1\r\nHost: service\r\n\r\n".encode())
            assert answer.status == status, path
        assert (await connection.ask(door.delivery(path="/subscriptionsabc"))).status == 404
        # A signed destination's deliveries count like any other.
        assert (await connection.ask(door.delivery(path=f"{PATH}/{door.key}"))).status == 503
        signed = door.delivery().replace(basic(door.key).encode(), basic("ewh_x").encode())
        assert (await connection.ask(signed)).status == 503
        assert (await connection.ask(door.delivery())).status == 503
        assert (await connection.ask(door.delivery(headers=("Connection: upgrade", "Upgrade: h2c")))).status == 503
    assert ("acme-crm", "503") in door.counted()


async def test_small_bodies_are_taken_while_large_ones_are_too_much(door: Door) -> None:
    limit = door.refusal.concurrency_limit
    connection = await door.connect()
    held = [limit.acquire(None, None) for _ in range(64)]
    assert None not in held
    limit.release(held.pop() or 0)
    small = limit.acquire(b"800000", None)
    assert small is not None
    assert (await connection.ask(door.delivery(pad="x" * 400_000))).status == 503
    assert door.requests_made == 0
    assert (await connection.ask(door.delivery())).status == 202
    for size in (*held, small):
        limit.release(size or 0)


async def test_wh_14_a_sender_who_has_its_share_is_refused_early_and_another_one_is_not(door: Door) -> None:
    limit, keys = door.refusal.concurrency_limit, door.service.services.api_keys.key_cache
    connection = await door.connect()
    assert (await connection.ask(door.delivery())).status == 202  # its key is recognised
    loud, other = keys.sender(keys.place(basic(door.key).encode())), "somebody else"
    asked = door.requests_made
    held = []
    while (size := limit.acquire(b"0", None, loud)) is not None:
        held.append((size, loud))
    assert limit.running == 751
    assert (await connection.ask(door.delivery())).status == 503
    assert door.requests_made == asked
    assert not limit.refuses(b"0", None, other)
    limit.release(*held.pop())
    assert (await connection.ask(door.delivery())).status == 202
    assert door.requests_made <= asked + 1
    for one in held:
        limit.release(*one)


async def test_a_stop_does_not_wait_for_the_rest_of_a_refused_body(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        door.refusal.body_seconds = 600
        connection = await door.connect()
        with door.full():
            connection.writer.write(door.delivery()[:-1])
            await until(lambda: any(one._refused for one in door.protocols))
            door.server.should_exit = True
            answer = await connection.answer()
            assert (answer.status, answer.headers["connection"]) == (503, "close")
            assert await connection.is_closed()


async def test_a_sender_who_goes_away_leaves_nothing_behind(door: Door) -> None:
    connection = await door.connect()
    with door.full():
        connection.writer.write(door.delivery()[:-1])
        await until(lambda: any(one._refused for one in door.protocols))
        connection.writer.close()
        await until(lambda: not door.protocols)
    assert door.counted() == {}


async def test_a_sender_who_does_not_read_is_waited_for_in_the_normal_way(door: Door) -> None:
    connection = await door.connect()
    with door.full():
        assert (await connection.ask(door.delivery())).status == 503
        (there,) = door.protocols
        there.pause_writing()
        connection.writer.write(door.delivery())
        await until(lambda: bool(door.requests_made))
        there.resume_writing()
        assert (await connection.answer()).status == 503
        assert (await connection.ask(door.delivery())).status == 503


async def test_those_that_arrive_together_are_not_all_let_in_for_the_place_of_one(door: Door) -> None:
    door.ask_for_no_stop()
    connections = [await door.connect() for _ in range(10)]
    with door.full():
        door.refusal.concurrency_limit.most += 1
        for number, connection in enumerate(connections):
            connection.writer.write(door.delivery(f"m-{number}"))
        answers = [(await connection.answer()).status for connection in connections]
        door.refusal.concurrency_limit.most -= 1
    assert set(answers) == {202, 503}
    assert door.requests_made == answers.count(202)


async def test_where_answers_are_logged_they_take_the_normal_way(tmp_path: Path) -> None:
    async with open_door(tmp_path, access_log=True) as door:
        connection = await door.connect()
        with door.full():
            assert (await connection.ask(door.delivery())).status == 503
            assert door.requests_made == 1


def test_it_is_the_same_on_the_loop_of_a_server_process(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, http=HTTP) as door:
            connection = await door.connect()
            with door.full():
                half = door.delivery(pad="x" * 100_000)
                assert (await connection.ask(half[:70_000], half[70_000:])).status == 503
                assert (await connection.ask(door.delivery())).status == 503
                assert door.requests_made == 0
            assert (await connection.ask(door.delivery())).status == 202
            with door.full():
                assert (await connection.ask(door.delivery(headers=("Connection: close",)))).status == 503
                assert await connection.is_closed()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


async def test_an_answer_comes_once_all_that_is_there_has_been_read(door: Door) -> None:
    connection = await door.connect()
    await connection.ask(b"GET /healthz HTTP/1.1\r\nHost: service\r\n\r\n")
    (there,) = door.protocols
    with door.full():
        there.data_received(door.delivery())
        assert there._pending is not None
        there.data_received(door.delivery() + b"garbage\r\n\r\n")
        assert [(await connection.answer()).status for _ in range(3)] == [503, 503, 400]
        assert await connection.is_closed()
    assert door.counted() == {("acme-crm", "503"): 2}


async def test_who_has_no_more_to_say_is_answered(door: Door) -> None:
    connections = [await door.connect() for _ in range(2)]
    with door.full():
        for connection in connections:
            await connection.ask(door.delivery())
        saying, stopping = door.protocols
        saying.data_received(door.delivery())
        saying.eof_received()
        assert saying._pending is None
        stopping.data_received(door.delivery())
        stopping.shutdown()
        assert stopping._pending is None
        assert [(await connection.answer()).status for connection in connections] == [503, 503]


async def test_a_sender_who_is_gone_by_then_is_told_nothing(door: Door) -> None:
    connection = await door.connect()
    with door.full():
        await connection.ask(door.delivery())
        (there,) = door.protocols
        there.data_received(door.delivery())
        there.transport.abort()
        await until(lambda: not door.protocols)
    assert there._pending is None


def test_what_is_read_in_the_same_turn_is_counted_before_it_is_let_in() -> None:
    soon: list[Any] = []
    limit = ConcurrencyLimit(2, most_bytes=1_000, body_bytes=600)
    tight = []
    for _ in range(2):
        limit.expect(soon.append)
        tight.append(limit.near_limit)
    assert limit.refuses(b"1", None)
    (forget,) = soon
    forget()
    tight.append(limit.near_limit)
    assert tight == [False, True, False]
    assert limit.acquire(b"1", None) == 1
    assert limit.acquire(b"400", None) == 400
    assert limit.refuses(b"1", None)


def test_uvicorn_is_as_it_is_expected_inside() -> None:
    """What ``DeliveryProtocol`` overrides and uses is not promised by uvicorn: a new version may have moved it."""
    moved = "uvicorn changed: read subscriptions/receiving/server/protocol.py against it, and raise the version"
    own = {name for name, value in vars(DeliveryProtocol).items() if callable(value)}
    overridden = {name for name in own if not name.startswith("_")} - {"answer_pending"}
    used = {"on_response_complete", "_unset_keepalive_if_required"}
    assert overridden | used <= vars(HttpToolsProtocol).keys(), moved
    assert len(overridden) == 12
    assert not (own - overridden - {"__init__"}) & vars(HttpToolsProtocol).keys(), moved

    async def attributes() -> set[str]:
        config = uvicorn.Config("tests.subscriptions.receiving.server.door:Door", lifespan="off", log_config=None)
        state = uvicorn.server.ServerState()
        assert state.default_headers == []
        return set(vars(HttpToolsProtocol(config, state, {})))

    def what_a_message_begins() -> set[str]:
        protocol = object.__new__(HttpToolsProtocol)
        protocol.__dict__.update(
            asgi_version="3.0", server=None, client=None, scheme="http", root_path="", app_state={}
        )
        given = set(vars(protocol))
        HttpToolsProtocol.on_message_begin(protocol)
        assert protocol.scope["headers"] is protocol.headers, moved
        return set(vars(protocol)) - given

    assert what_a_message_begins() == {"url", "headers", "expect_100_continue", "scope"}, moved
    there = asyncio.run(attributes())
    assert {"app", "loop", "parser", "root_path", "transport", "flow", "headers"} <= there, moved
    assert {"server_state", "cycle", "pipeline", "expect_100_continue", "timeout_keep_alive_task"} <= there, moved
