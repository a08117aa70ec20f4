"""Deliveries that are taken without becoming requests, on real connections: the answers are those of the normal way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import random
import weakref
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from db.clock import utc_now
from db.control import api_keys
from db.event_log.records import EventFilter
from db.event_log.tables import EventState
from oauth_app.accepting import new_loop
from oauth_app.cli.serve import HTTP
from oauth_app.panic import lift_stop, stop_everything
from subscriptions.receiving.pressure import Pressure
from tests.journey.deployment import basic
from tests.oauth_app.door import PATH, Answer, Connection, Door, door_of, open_door, until
from tests.oauth_app.operations import running_service

EVENT = {"type": "track", "event": "Paid", "userId": "u", "messageId": "m-1"}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(tmp_path) as opened:
        yield opened


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
    assert door.refusal.pressure.running == 0
    assert door.server.server_state.total_requests == 22


async def test_the_answer_is_that_of_the_normal_way(door: Door) -> None:
    await warm(door)
    async with door_of(door.service, door.key, http=HttpToolsProtocol) as plain:
        early, normal = await door.connect(), await plain.connect()
        for version in ("1.1", "1.0"):
            taken = await early.ask(door.delivery(version=version))
            asked = await normal.ask(door.delivery(version=version))
            assert taken.without_date == asked.without_date
            assert list(taken.headers) == list(asked.headers)


KEYLESS = "POST /subscriptions/acme-crm HTTP/1.1\r\nHost: service\r\nContent-Length: 2\r\n\r\n{}"


def odd_requests(key: str) -> dict[str, bytes]:
    """Requests that cannot be taken just so, by name."""
    body = json.dumps(EVENT).encode()
    other = json.dumps({**EVENT, "type": "screen"}).encode()
    return {
        "no key": KEYLESS.encode(),
        "unknown key": request(body, key="ews_unknown"),
        "two keys": request(body, f"Authorization: {basic(key)}", key=key),
        "other component": request(body, key=key, path="/subscriptions/nobody"),
        "no component": request(body, key=key, path="/subscriptions/"),
        "key in the path": request(body, key=key, path=f"{PATH}/{key}"),
        "other method": request(body, key=key, method="PUT"),
        "get": request(b"", key=key, method="GET"),
        "form": request(body, "Content-Type: application/x-www-form-urlencoded", key=key),
        "no json": request(b"{", key=key),
        "no object": request(b"[]", key=key),
        "nothing": request(b"", key=key),
        "no type": request(b'{"userId":"u"}', key=key),
        "nobody": request(b'{"type":"track","event":"Paid"}', key=key),
        "key twice": request(b'{"type":"track","event":"Paid","userId":"u","userId":"v"}', key=key),
        "deep": request(b"[" * 5_000, key=key),
        "not utf-8": request(b'{"type":"\xff"}', key=key),
        "no handler": request(other, key=key),
        "gzip": request(gzip.compress(body), "Content-Encoding: gzip", key=key),
        "broken gzip": request(b"x", "Content-Encoding: gzip", key=key),
        "other encoding": request(body, "Content-Encoding: br", key=key),
        "unusable settings": request(body, "X-Segment-Settings: {", key=key),
        "too large": request(body, key=key, length=2_000_000),
        "last": request(body, "Connection: close", key=key),
        "upgrade": request(body, "Connection: upgrade", "Upgrade: h2c", key=key),
        "chunked": request(b"", key=key).replace(
            b"Content-Length: 0\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n2\r\n{}\r\n0\r\n\r\n"
        ),
    }


@pytest.mark.parametrize("name", odd_requests("ews_x"))
async def test_what_is_refused_is_refused_as_in_the_normal_way(door: Door, name: str) -> None:
    await warm(door)
    sent = odd_requests(door.key)[name]
    async with door_of(door.service, door.key, http=HttpToolsProtocol) as plain:
        early, normal = await door.connect(), await plain.connect()
        answers: list[Answer] = [await connection.ask(sent) for connection in (early, normal)]
    assert answers[0].without_date == answers[1].without_date
    assert list(answers[0].headers) == list(answers[1].headers)
    assert door.refusal.pressure.running == 0


def test_whatever_arrives_in_whatever_pieces_is_answered_as_in_the_normal_way(tmp_path: Path) -> None:
    """Generated deliveries, most of them odd in some way, cut at generated places."""
    texts = st.sampled_from(["u", "", "ü\U0001f600", 'quote"', "x" * 300])
    event: st.SearchStrategy[dict[str, object]] = st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["track", "identify", "delete", "screen", "TRACK", "", 7, None]),
            "event": texts,
            "userId": st.one_of(texts, st.integers(), st.none()),
            "anonymousId": texts,
            "messageId": st.one_of(st.sampled_from(["m-1", "m-2", "m-3"]), st.none()),
            "context": st.one_of(st.just({"a": [1, 2.5, None]}), st.none(), st.just([])),
            "timestamp": st.sampled_from(["2026-03-02T10:15:42.389Z", "yesterday", None, 5]),
        },
    )
    body = st.one_of(event.map(lambda one: json.dumps(one).encode()), st.binary(max_size=20))
    header = st.sampled_from(
        [
            "Content-Type: application/json",
            "Content-Type: text/plain",
            "X-Segment-Settings: e30=",
            "X-Segment-Settings: !",
            "Content-Encoding: identity",
            "Content-Encoding: gzip",
            "Connection: keep-alive",
            "Expect: nothing",
            "X-Long: " + "y" * 500,
        ]
    )

    async def compare(loop_door: Door, plain: Door, sent: bytes, cuts: list[int]) -> None:
        places = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
        pieces = [sent[one:other] for one, other in pairwise(places) if other > one]
        early, normal = await loop_door.connect(), await plain.connect()
        taken, asked = await early.ask(*pieces), await normal.ask(sent)
        assert taken.without_date == asked.without_date
        assert (await early.ask(loop_door.delivery("after"))).status == 202
        early.writer.close()
        normal.writer.close()

    with asyncio.Runner() as runner:
        opened = open_door(tmp_path)
        door = runner.run(opened.__aenter__())
        beside = door_of(door.service, door.key, http=HttpToolsProtocol)
        plain = runner.run(beside.__aenter__())

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(body, st.lists(header, max_size=3, unique=True), st.lists(st.integers(0, 600), max_size=3))
        def check(content: bytes, headers: list[str], cuts: list[int]) -> None:
            runner.run(compare(door, plain, request(content, *headers, key=door.key), cuts))

        try:
            check()
            assert door.refusal.pressure.running == 0
        finally:
            runner.run(beside.__aexit__(None, None, None))
            runner.run(opened.__aexit__(None, None, None))


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
    assert door.refusal.pressure.running == 0


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
    found = await services.api_keys.recognition.look_up(door.key)
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


class HeldLog:
    """PostgreSQL, where another session holds up whoever stores events."""

    def __init__(self, door: Door, session: asyncpg.Connection) -> None:
        self.door = door
        self._session = session

    async def hold(self) -> None:
        await self._session.execute("BEGIN; LOCK TABLE message_keys IN EXCLUSIVE MODE")

    async def let_go(self) -> None:
        await self._session.execute("ROLLBACK")


@pytest.fixture
async def held(tmp_path: Path, postgresql_url: str) -> AsyncIterator[HeldLog]:
    url = make_url(postgresql_url)
    session = await asyncpg.connect(host=str(url.query["host"]), user="postgres", database=url.database)
    try:
        async with open_door(tmp_path, environment={"event_log_url": postgresql_url}) as door:
            yield HeldLog(door, session)
    finally:
        await session.close()


async def in_hand(pressure: Pressure, count: int) -> None:
    await until(lambda: pressure.running == count)


async def test_a_store_that_hangs_is_answered_503_in_time(held: HeldLog) -> None:
    door = held.door
    door.stop_the_clocks()
    connection = await warm(door)
    short_way = door.service.app.short_way  # type: ignore[attr-defined]
    short_way.store_seconds = 0.3
    await held.hold()
    made = door.requests_made
    refused = await connection.ask(door.delivery("late"))
    assert (refused.status, refused.headers["retry-after"]) == (503, "10")
    assert door.requests_made == made
    short_way.store_seconds = 20
    await held.let_go()
    assert (await connection.ask(door.delivery("late"))).status == 202
    assert (await stored(door)).count("late") == 1
    assert door.refusal.pressure.running == 0


async def test_a_store_that_is_gone_is_503_and_comes_back(held: HeldLog) -> None:
    door = held.door
    connection = await warm(door)
    await held._session.execute("ALTER TABLE message_keys RENAME TO elsewhere")
    refused = await connection.ask(door.delivery("lost?"))
    assert (refused.status, "Try again" in refused.body.decode()) == (503, True)
    await held._session.execute("ALTER TABLE elsewhere RENAME TO message_keys")
    assert (await connection.ask(door.delivery("lost?"))).status == 202
    assert "lost?" in await stored(door)


async def test_a_sender_who_goes_away_meanwhile_leaves_its_event(held: HeldLog) -> None:
    door = held.door
    connection = await warm(door)
    pressure = door.refusal.pressure
    await held.hold()
    connection.writer.write(door.delivery("gone"))
    await in_hand(pressure, 1)
    connection.writer.close()
    await until(lambda: not door.server.server_state.connections)
    await held.let_go()
    await in_hand(pressure, 0)
    assert "gone" in await stored(door)
    assert door.counted()["acme-crm", "202"] == 3


async def test_a_stop_waits_for_what_was_taken_and_closes_the_connection(held: HeldLog) -> None:
    door = held.door
    connection, idle = await warm(door), await door.connect()
    await held.hold()
    connection.writer.write(door.delivery("at the end"))
    await in_hand(door.refusal.pressure, 1)
    door.server.should_exit = True
    assert await idle.is_closed()
    await held.let_go()
    answer = await connection.answer()
    assert (answer.status, answer.headers["connection"]) == (202, "close")
    assert await connection.is_closed()
    assert "at the end" in await stored(door)


async def test_what_comes_behind_one_in_hand_waits_for_its_turn(held: HeldLog) -> None:
    door = held.door
    connection = await warm(door)
    await held.hold()
    connection.writer.write(door.delivery("first"))
    await in_hand(door.refusal.pressure, 1)
    connection.writer.write(b"GET /healthz HTTP/1.1\r\nHost: service\r\n\r\n" + door.delivery("second"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await connection.reader.readexactly(1)
    await held.let_go()
    assert [(await connection.answer()).status for _ in range(3)] == [202, 200, 202]
    assert (await stored(door))[2:] == ["first", "second"]


async def test_what_is_in_hand_counts(held: HeldLog) -> None:
    door = held.door
    await warm(door)
    pressure = door.refusal.pressure
    connections = [await door.connect() for _ in range(5)]
    await held.hold()
    pressure.most = 3
    for number, connection in enumerate(connections):
        connection.writer.write(door.delivery(f"m-{number}"))
        await until(lambda number=number: pressure.running == min(number + 1, 3))  # type: ignore[misc]
    answers = [(await connection.answer()).status for connection in connections[3:]]
    assert answers == [503, 503]
    await held.let_go()
    assert {(await connection.answer()).status for connection in connections[:3]} == {202}
    assert pressure.running == 0


async def test_deliveries_of_an_embedded_application_need_nothing_of_it(tmp_path: Path) -> None:
    """Another server than ours makes requests of all of them."""
    async with running_service(tmp_path) as service:
        _, key = await service.api_key()
        async with door_of(service, key, http=HttpToolsProtocol) as plain:
            connection = await warm(plain)
            assert (await connection.ask(plain.delivery())).status == 202
            assert plain.requests_made == 1


@pytest.mark.parametrize("cut", [1, 40], ids=["nearly all of it", "some of it"])
async def test_an_address_that_is_too_long_is_answered_as_in_the_normal_way(door: Door, cut: int) -> None:
    await warm(door)
    sent = door.delivery(path=f"{PATH}?{'a' * 70_000}")
    async with door_of(door.service, door.key, http=HttpToolsProtocol) as plain:
        early, normal = await door.connect(), await plain.connect()
        answers = [await connection.ask(sent[:-cut]) for connection in (early, normal)]
    assert answers[0].without_date == answers[1].without_date


async def test_one_behind_a_refused_one_is_not_cut_off_as_idle(tmp_path: Path) -> None:
    async with open_door(tmp_path, timeout_keep_alive=0) as door:
        pressure = door.refusal.pressure
        door.stop_the_clocks()
        await door.service.services.api_keys.recognition.look_up(door.key, presentation=basic(door.key).encode())
        await door.service.services.panic.engaged()
        held = [pressure.admit(None, None) for _ in range(63)] + [pressure.admit(b"800000", None)]
        connection = await door.connect()
        connection.writer.write(door.delivery("large", pad="x" * 400_000) + door.delivery("small"))
        assert [(await connection.answer()).status for _ in range(2)] == [503, 202]
        for size in held:
            pressure.leave(size or 0)


async def test_garbage_behind_a_delivery_is_not_the_answer_to_it(held: HeldLog) -> None:
    door = held.door
    door.stop_the_clocks()
    connection = await warm(door)
    await held.hold()
    connection.writer.write(door.delivery("before garbage") + b"garbage\r\n\r\n")
    await in_hand(door.refusal.pressure, 1)
    await held.let_go()
    answer = await connection.answer()
    assert (answer.status, answer.headers["connection"]) == (202, "close")
    assert await connection.is_closed()
    assert "before garbage" in await stored(door)


def messages(key: str, number: int) -> dict[str, bytes]:
    """Whole messages of every kind, by name; those that can be stored have an id of their own."""
    body = json.dumps({**EVENT, "messageId": f"m-{number}"}).encode()
    chunks = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return {
        "delivery": request(body, key=key),
        "another": request(body.replace(b'"u"', b'"v"'), key=key),
        "large": request(body + b" " * 90_000, key=key),
        "chunked": request(b"", key=key).replace(b"Content-Length: 0\r\n\r\n", chunks),
        "packed": request(gzip.compress(body), "Content-Encoding: gzip", key=key),
        "nothing": request(b"", key=key),
        "no key": KEYLESS.encode(),
        "page": b"GET /healthz HTTP/1.1\r\nHost: service\r\n\r\n",
        "no page": b"GET /nothing HTTP/1.1\r\nHost: service\r\n\r\n",
    }


@pytest.mark.parametrize("full", [False, True], ids=["room", "full"])
async def test_whatever_comes_in_a_row_is_answered_as_in_the_normal_way(door: Door, full: bool) -> None:
    await warm(door)
    async with door_of(door.service, door.key, http=HttpToolsProtocol) as plain:
        for seed in range(40):
            chance = random.Random(seed)  # noqa: S311
            kinds = [chance.choice([*messages("", 0)]) for _ in range(chance.randint(2, 6))]
            sent = b"".join(messages(door.key, 10 * seed + n)[kind] for n, kind in enumerate(kinds))
            cuts = sorted(chance.randrange(1, min(len(sent), chance.choice([600, 200_000]))) for _ in range(3))
            pieces = [sent[one:other] for one, other in pairwise([0, *cuts, len(sent)])]
            told = []
            with door.full() if full else contextlib.nullcontext():
                for connection in (await door.connect(), await plain.connect()):
                    first = await connection.ask(*pieces)
                    told.append([first.without_date, *[(await connection.answer()).without_date for _ in kinds[1:]]])
                    connection.writer.close()
            assert told[0] == told[1], (seed, kinds, cuts)
    pressure = door.refusal.pressure
    assert (pressure.running, pressure._bytes, door.service.app.short_way.watchdog.waits) == (0, 0, {})  # type: ignore[attr-defined]


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
