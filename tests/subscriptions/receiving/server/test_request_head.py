"""Heads that are odd: an offer to upgrade, too much of a head, too long for it, and our own failures while reading."""

from __future__ import annotations

import asyncio
import json
import os

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from enable_with_segment.oauth_app.operators.api_tokens import Scope
from enable_with_segment.oauth_app.web.api import requests
from enable_with_segment.oauth_app.web.routes import forms
from enable_with_segment.subscriptions.receiving.server import protocol, request_head
from enable_with_segment.subscriptions.receiving.server.request_head import without_upgrade
from tests.journey.deployment import basic
from tests.subscriptions.receiving.server.door import PATH, Door, stored, until, warm

OFFERS = {
    "h2c": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    "websocket": "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x",
    "any": "connection: UPGRADE\r\nupgrade: TLS/1.0",
}
INNER = b"GET /healthz HTTP/1.1\r\nHost: inner\r\n\r\n"


def offering(door: Door, offer: str, body: bytes, *, chunked: bool) -> bytes:
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    lines = [f"POST {PATH} HTTP/1.1", "Host: service", f"Authorization: {basic(door.key)}", framing, OFFERS[offer]]
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + sent


def event(message_id: str, **more: str) -> bytes:
    return json.dumps({"type": "track", "event": "Paid", "userId": "u", "messageId": message_id, **more}).encode()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("offer", OFFERS)
async def test_wh_17_an_offer_to_upgrade_is_ignored_and_the_body_is_the_requests(
    door: Door, offer: str, chunked: bool
) -> None:
    connection = await warm(door)
    sent = offering(door, offer, event("whole"), chunked=chunked)
    assert (await connection.ask(sent)).status == 202
    parted = offering(door, offer, event("parted"), chunked=chunked)
    head, _, body = parted.partition(b"\r\n\r\n")
    assert (await connection.ask(head[:40], head[40:] + b"\r\n\r\n", body[:10], body[10:])).status == 202
    assert (await connection.ask(door.delivery("after"))).status == 202
    assert (await stored(door))[-3:] == ["whole", "parted", "after"]


@pytest.mark.parametrize("offer", OFFERS)
async def test_wh_17_a_body_behind_an_offer_is_never_read_as_a_request(door: Door, offer: str) -> None:
    connection = await warm(door)
    sent = offering(door, offer, INNER, chunked=False)
    head, body = sent[: -len(INNER)], sent[-len(INNER) :]
    assert (await connection.ask(head, body)).status == 400
    assert (await connection.ask(door.delivery("next"))).status == 202, "what comes next answers the next request"
    pipelined = offering(door, offer, event("first"), chunked=False) + INNER + door.delivery("third")
    statuses = [(await connection.ask(pipelined)).status, *[(await connection.answer()).status for _ in range(2)]]
    assert statuses == [202, 200, 202]


async def test_wh_17_connect_is_refused(door: Door) -> None:
    connection = await warm(door)
    assert (await connection.ask(b"CONNECT inner:80 HTTP/1.1\r\nHost: inner:80\r\n\r\n" + INNER)).status == 400
    assert await connection.is_closed()


TOKEN = st.sampled_from([b"upgrade", b"Upgrade", b"keep-alive", b"close", b"x"])
FIELD = st.one_of(
    st.tuples(st.just(b"connection"), st.lists(TOKEN, min_size=1).map(b", ".join)),
    st.tuples(st.just(b"upgrade"), st.sampled_from([b"h2c", b"websocket"])),
    st.tuples(st.sampled_from([b"host", b"x-a"]), st.sampled_from([b"a", b"b c", b""])),
)


@given(st.lists(FIELD))
def test_a_head_without_its_offer_is_the_same_head_otherwise(fields: list[tuple[bytes, bytes]]) -> None:
    class Reader:
        def __init__(self) -> None:
            self.fields: list[tuple[bytes, bytes]] = []
            self.complete = False

        def on_header(self, name: bytes, value: bytes) -> None:
            self.fields.append((name, value))

        def on_message_complete(self) -> None:
            self.complete = True

    reader = Reader()
    httptools.HttpRequestParser(reader).feed_data(without_upgrade(b"GET", b"/a?b", "1.1", fields))
    assert reader.complete
    wanted = [field for field in fields if field[0] not in {b"upgrade", b"connection"}]
    assert [field for field in reader.fields if field[0] != b"connection"] == wanted
    options = [option for name, value in fields if name == b"connection" for option in value.split(b", ")]
    kept = [option for name, value in reader.fields if name == b"connection" for option in value.split(b", ")]
    assert kept == [option for option in options if option.lower() != b"upgrade"]


@pytest.mark.parametrize(
    "head",
    [
        b"X-Long: " + b"x" * 70_000,
        b"\r\n".join(b"X-%d: 1" % number for number in range(101)),
        b"\r\n".join(b"X-%d: %b" % (number, b"x" * 1_000) for number in range(70)),
    ],
    ids=["one long field", "many fields", "together too long"],
)
@pytest.mark.parametrize("pieces", [1, 30])
async def test_wh_19_a_head_that_is_too_large_is_431_and_ends_the_connection(
    door: Door, head: bytes, pieces: int
) -> None:
    connection = await warm(door)
    sent = b"POST /subscriptions/acme-crm HTTP/1.1\r\nHost: service\r\n" + head + b"\r\n\r\n"
    step = len(sent) // pieces + 1
    with_pauses = [sent[start : start + step] for start in range(0, len(sent), step)]
    try:
        answer = await connection.ask(*with_pauses)
    except ConnectionError:  # it was refused before all of it was sent, and the answer was overtaken
        answer = None
    assert answer is None or (answer.status, answer.headers["connection"]) == (431, "close")
    await until(lambda: not door.protocols)


async def test_wh_19_a_head_without_an_end_is_ended_long_before_it_is_large(door: Door) -> None:
    connection = await warm(door)
    connection.writer.write(b"GET / HTTP/1.1\r\nX: ")
    sent = 0
    while door.protocols and sent < 64:
        connection.writer.write(b"x" * 65_536)
        sent += 1
        await asyncio.sleep(0.01)
    assert sent < 64
    await until(lambda: not door.protocols)


async def test_wh_19_a_head_that_takes_too_long_ends_the_connection(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_head, "HEAD_SECONDS", 0.2)
    connection = await warm(door)
    assert (await connection.ask(b"POST /subscriptions/acme-crm HTTP/1.1\r\nHo")).status == 408
    assert await connection.is_closed()
    delivery = door.delivery("slow body")
    other = await door.connect()
    other.writer.write(delivery[:-5])
    await asyncio.sleep(0.4)
    assert (await other.ask(delivery[-5:])).status == 202, "a body has a limit of its own"


async def test_wh_20_a_failure_of_ours_while_reading_is_503_and_never_a_4xx(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await warm(door)

    def fail(*_: object) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(protocol.DeliveryProtocol, "_offer", fail)
    answer = await connection.ask(door.delivery("while it fails"))
    assert (answer.status, answer.headers["retry-after"]) == (503, "10")
    assert await connection.is_closed()
    monkeypatch.undo()
    assert (await (await door.connect()).ask(door.delivery("again"))).status == 202
    assert (await stored(door))[-1] == "again"


async def test_wh_19_the_body_of_an_api_call_has_a_time_limit(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.1)
    tokens = door.service.services.api_tokens
    token = await tokens.mint("test", [Scope.CONNECT_LINKS_WRITE], lifetime=None, actor="test")
    lines = ["POST /api/v1/connect-links HTTP/1.1", "Host: service", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {token.token}", "Content-Length: 10"]
    connection = await door.connect()
    assert (await connection.ask("\r\n".join(lines).encode() + b"\r\n\r\n{", b'"')).status == 408
    assert await connection.is_closed()


async def test_wh_19_the_body_of_a_form_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "BODY_SECONDS", 0.01)

    async def never() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    headers = [(b"content-type", b"application/x-www-form-urlencoded")]
    with pytest.raises(HTTPException) as refused:
        await forms.read_form(Request({"type": "http", "method": "POST", "headers": headers}, never))
    assert refused.value.status_code == 408


async def test_wh_20_without_memory_the_process_ends(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []

    def no_memory(*_: object) -> bool:
        raise MemoryError

    connection = await warm(door)
    monkeypatch.setattr(protocol.DeliveryProtocol, "_offer", no_memory)
    monkeypatch.setattr(os, "_exit", ended.append)
    connection.writer.write(door.delivery())
    await until(lambda: bool(ended))
    assert ended == [70]
