"""Whatever arrives is answered as it would be if every delivery became a request."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.journey.deployment import basic
from tests.subscriptions.receiving.server.door import PATH, Answer, Door, door_of, open_door, request, warm

EVENT = {"type": "track", "event": "Paid", "userId": "u", "messageId": "m-1"}


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
    assert door.refusal.concurrency_limit.running == 0


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
            assert door.refusal.concurrency_limit.running == 0
        finally:
            runner.run(beside.__aexit__(None, None, None))
            runner.run(opened.__aexit__(None, None, None))


@pytest.mark.parametrize("cut", [1, 40], ids=["nearly all of it", "some of it"])
async def test_wh_19_an_address_that_is_too_long_is_431(door: Door, cut: int) -> None:
    connection = await warm(door)
    sent = door.delivery(path=f"{PATH}?{'a' * 70_000}")
    assert (await connection.ask(sent[:-cut])).status == 431


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
    limit = door.refusal.concurrency_limit
    waits = door.service.app.fast_path.watchdog.waits  # type: ignore[attr-defined]
    assert (limit.running, limit._bytes, waits) == (0, 0, {})
