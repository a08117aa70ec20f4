"""Deliveries that are taken without becoming requests, on real connections."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import apsw
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import api_keys
from enable_with_segment.db.event_log.records import EventFilter
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.oauth_app.cli.serve import HTTP
from enable_with_segment.oauth_app.runtime.emergency_stop import lift_stop, stop_everything
from enable_with_segment.subscriptions.receiving.exchange import Headers
from enable_with_segment.subscriptions.receiving.server.accepting import new_loop
from tests.journey.deployment import basic
from tests.oauth_app.operations import running_service
from tests.subscriptions.receiving.server.door import Door, door_of, open_door, stored, until, warm


async def test_a_delivery_in_one_piece_is_taken_without_a_request(door: Door) -> None:
    door.stop_the_clocks()
    await warm(door)
    connection = await door.connect()
    made = door.requests_made
    answers = [await connection.ask(door.delivery(f"m-{number}")) for number in range(20)]
    assert {answer.status for answer in answers} == {202}
    assert door.requests_made == made
    assert await stored(door) == ["warm-0", "warm-1", *(f"m-{number}" for number in range(20))]
    assert door.counted() == {("acme-crm", "202"): 22}
    assert door.refusal.concurrency_limit.running == 0
    assert door.server.server_state.total_requests == 22


async def test_the_body_may_come_later_and_in_pieces(door: Door) -> None:
    connection = await warm(door)
    sent = door.delivery("in pieces", pad="x" * 200)
    for number, cut in enumerate(range(1, len(sent), 29)):
        whole = door.delivery(f"cut-{number:02}", pad="x" * 200)
        assert (await connection.ask(whole[:cut], whole[cut:])).status == 202
    large = door.delivery("large", pad="x" * 700_000)
    assert (await connection.ask(large)).status == 202
    assert (await stored(door))[2:] == [f"cut-{n:02}" for n in range(len(range(1, len(sent), 29)))] + ["large"]


async def test_pipelined_deliveries_are_answered_in_order_and_each_is_stored_once(door: Door) -> None:
    connection = await warm(door)
    get = b"GET /healthz HTTP/1.1\r\nHost: service\r\n\r\n"
    missing = b"GET /nothing HTTP/1.1\r\nHost: service\r\n\r\n"
    connection.writer.write(
        door.delivery("a") + door.delivery("b") + get + door.delivery("c") + missing + door.delivery("a") + get
    )
    assert [(await connection.answer()).status for _ in range(7)] == [202, 202, 200, 202, 404, 202, 200]
    assert (await stored(door))[2:] == ["a", "b", "c"]
    assert door.refusal.concurrency_limit.running == 0


async def test_a_duplicate_is_counted_and_answered_alike(door: Door) -> None:
    connection = await warm(door)
    for _ in range(3):
        assert (await connection.ask(door.delivery("same"))).status == 202
    (record,) = await door.service.services.event_log.find(EventFilter(message_id="same"))
    assert (record.duplicates, record.state) == (2, EventState.PENDING)


async def test_while_the_emergency_stop_is_engaged_nothing_is_taken(door: Door) -> None:
    connection = await warm(door)
    database = door.service.services.database
    await stop_everything(database, actor="cli", reason="test", now=utc_now())
    async with asyncio.timeout(20):
        while (await connection.ask(door.delivery("while stopped?"))).status == 202:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # what is known of it may be nine tenths of a second old
    kept = len(await stored(door))
    for number in range(30):
        assert (await connection.ask(door.delivery(f"s-{number}"))).headers["retry-after"] == "30"
    assert len(await stored(door)) == kept
    await lift_stop(database, actor="cli", reason="test", now=utc_now())


async def test_a_key_that_another_process_revoked_is_refused_within_a_second(door: Door) -> None:
    connection = await warm(door)
    services = door.service.services
    found = await services.api_keys.key_cache.look_up(door.key)
    assert found.holder is not None
    async with services.database.transaction() as session:
        await api_keys.revoke(session, found.holder.key_id, now=utc_now())
    async with asyncio.timeout(20):
        while (await connection.ask(door.delivery("again"))).status == 202:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    refused = await connection.ask(door.delivery("again"))
    assert (refused.status, "revoked" in refused.body.decode()) == (401, True)


async def test_where_answers_are_logged_deliveries_are_requests(tmp_path: Path) -> None:
    async with open_door(tmp_path, access_log=True) as door:
        connection = await warm(door)
        assert (await connection.ask(door.delivery())).status == 202
        assert door.requests_made == 1


def test_it_is_the_same_on_the_loop_of_a_server_process(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, http=HTTP) as door:
            door.stop_the_clocks()
            await warm(door)
            connections = [await door.connect() for _ in range(20)]
            made = door.requests_made
            for round_ in range(5):
                for number, connection in enumerate(connections):
                    connection.writer.write(door.delivery(f"{round_}-{number}"))
                assert {(await connection.answer()).status for connection in connections} == {202}
            assert door.requests_made == made
            assert len(await stored(door)) == 102

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


async def test_deliveries_of_an_embedded_application_need_nothing_of_it(tmp_path: Path) -> None:
    """Another server than ours makes requests of all of them."""
    async with running_service(tmp_path) as service:
        _, key = await service.api_key()
        async with door_of(service, key, http=HttpToolsProtocol) as plain:
            connection = await warm(plain)
            assert (await connection.ask(plain.delivery())).status == 202
            assert plain.requests_made == 1


async def test_one_behind_a_refused_one_is_not_cut_off_as_idle(tmp_path: Path) -> None:
    async with open_door(tmp_path, timeout_keep_alive=0) as door:
        limit = door.refusal.concurrency_limit
        door.stop_the_clocks()
        recognition = door.service.services.api_keys.key_cache
        await recognition.look_up(door.key, place=recognition.place(basic(door.key).encode()))
        await door.service.services.panic.engaged()
        held = [limit.acquire(None, None) for _ in range(63)] + [limit.acquire(b"800000", None)]
        connection = await door.connect()
        connection.writer.write(door.delivery("large", pad="x" * 400_000) + door.delivery("small"))
        assert [(await connection.answer()).status for _ in range(2)] == [503, 202]
        for size in held:
            limit.release(size or 0)


async def test_a_connection_that_is_closed_leaves_no_key_in_memory(door: Door) -> None:
    connection = await warm(door)
    (there,) = door.server.server_state.connections
    protocol = weakref.ref(there)
    del there
    gc.disable()  # what only the collector finds may stay for as long as little happens
    try:
        connection.writer.close()
        await until(lambda: protocol() is None)
    finally:
        gc.enable()


async def test_a_store_that_fails_leaves_no_key_in_memory(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise apsw.IOError("disk I/O error")

    door.stop_the_clocks()
    connection = await warm(door)
    protocol = weakref.ref(door.protocols[0])
    monkeypatch.setattr(door.service.services.event_log, "_open_and", broken)
    made = door.requests_made
    gc.disable()
    try:
        assert (await connection.ask(door.delivery())).status == 503
        assert door.requests_made == made
        connection.writer.close()
        await until(lambda: protocol() is None)
    finally:
        gc.enable()


async def test_what_the_log_refuses_at_once_is_answered_after_it_was_taken(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.stop_the_clocks()
    await warm(door)
    event_log = door.service.services.event_log
    monkeypatch.setattr(event_log._gathering, "_most_waiting", 0)  # type: ignore[attr-defined]  # SQLite's
    head, body = door.delivery().split(b"\r\n\r\n")
    lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
    headers = Headers([(name.lower(), value) for name, value in lines])
    given: list[int] = []
    fast_path = door.service.app.fast_path  # type: ignore[attr-defined]
    assert fast_path.take("acme-crm", headers, body, lambda answer: given.append(answer.status))
    assert given == []
    await until(lambda: bool(given))
    assert given == [503]
    assert door.refusal.concurrency_limit.running == 0


async def test_an_observer_that_fails_keeps_nobody_waiting(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    door.stop_the_clocks()
    connection = await warm(door)
    fast_path = door.service.app.fast_path  # type: ignore[attr-defined]
    monkeypatch.setattr(fast_path.reception.observer, "answered", broken)
    assert (await connection.ask(door.delivery())).status == 202
    assert (await connection.ask(door.delivery())).status == 202
