"""Security statements WH-1 to WH-3 and WH-13, at both doors: what a caller gets to without a good key or method."""

from __future__ import annotations

import base64
import statistics
import time
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy import event as sql_event

from enable_with_segment.db.control import api_keys
from enable_with_segment.installs.key_cache import KeyCache, KeyState
from tests.subscriptions.answers import message
from tests.subscriptions.receiver import IDENTIFY, Receiver, basic
from tests.subscriptions.signed_sender import Sender


@contextmanager
def statements() -> Iterator[list[tuple[str, str]]]:
    """Collect what any engine is asked while the block runs: statement and parameters."""
    seen: list[tuple[str, str]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.append((statement, str(parameters)))

    sql_event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sql_event.remove(Engine, "before_cursor_execute", note)


MALFORMED = [
    None,
    b"",
    b"Basic",
    b"Bearer abc",
    b"Basic %%%",
    b"Basic " + base64.b64encode(b"no colon"),
    b"Basic " + base64.b64encode(b":"),
    b"Basic " + base64.b64encode(b"\xff\xfe:"),
    b"Basic " + base64.b64encode(b"x" * 5_000 + b":"),
]


@pytest.mark.parametrize("value", MALFORMED)
async def test_wh_01_a_malformed_authorization_is_401_and_no_store_is_asked(
    receiver: Receiver, value: bytes | None
) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(True)
        yield b""

    headers = {} if value is None else {b"authorization": value}
    with statements() as seen:
        response = await receiver.client.post("/subscriptions/acme-crm", content=body(), headers=headers)
    assert response.status_code == 401
    assert message(response)
    assert read == []
    assert seen == []
    assert await receiver.records() == []


async def test_wh_01_refusing_a_malformed_authorization_takes_less_than_a_millisecond(receiver: Receiver) -> None:
    """Of this process's own time, which other processes don't add to; it is far less than that."""
    statuses: list[int] = []

    async def never() -> dict[str, Any]:
        raise AssertionError("the body is not read")

    async def note(sent: MutableMapping[str, Any]) -> None:
        statuses.extend([sent["status"]] if "status" in sent else [])

    taken: list[float] = []
    for value in MALFORMED * 25:
        headers = [] if value is None else [(b"authorization", value)]
        scope = {"type": "http", "method": "POST", "path": "/acme-crm", "root_path": "", "headers": headers}
        began = time.process_time()
        await receiver.webhook(scope, never, note)
        taken.append(time.process_time() - began)
    assert statuses == [401] * len(taken)
    assert statistics.median(taken) < 0.001


async def test_wh_02_what_is_stored_of_a_key_rests_on_a_secret(receiver: Receiver) -> None:
    async with receiver.database.transaction() as session:
        (stored,) = await api_keys.list_all(session)
    assert stored.key_hash == receiver.api_keys.key_cache.hash(receiver.key)
    elsewhere = KeyCache(receiver.database, b"another secret".ljust(32))
    assert stored.key_hash != elsewhere.hash(receiver.key)
    assert (await elsewhere.look_up(receiver.key)).state is KeyState.UNKNOWN
    await elsewhere.close()


async def test_wh_02_whatever_is_right_about_a_guess_the_same_question_is_asked(receiver: Receiver) -> None:
    """So the time of an answer tells nothing; ``benchmarks/key_timing.py`` measures it, with statistics.

    The only thing compared with what is stored is the hash, by a lookup in its index. How far that gets depends on a
    secret that the guesser hasn't got, so a bound wide enough for every machine could not fail for a prefix.
    """
    # The clear key takes part in no comparison at all: what is asked for is a keyed hash, unrelated for every guess.
    guesses = [receiver.key[:-1] + "!", receiver.key[:8] + "x" * 36, "ews_" + "x" * 40, "x", receiver.key.swapcase()]
    asked: set[str] = set()
    hashes: list[str] = []
    for guess in guesses:
        with statements() as seen:
            assert (await receiver.deliver(IDENTIFY, key=guess)).status_code == 401
        lookups = [(statement, parameters) for statement, parameters in seen if "key_hash" in statement]
        assert len(lookups) <= 1
        for statement, parameters in lookups:
            asked.add(statement)
            hashes.append(parameters)
            assert guess not in parameters
    assert len(asked) == 1
    assert len(set(hashes)) == len(hashes) >= 2
    assert not any(a[:12] == b[:12] for a in hashes for b in hashes if a != b)


async def test_wh_03_both_keys_work_during_the_overlap_and_the_old_one_not_after_it(receiver: Receiver) -> None:
    old = await receiver.mint("acme")
    new = await receiver.mint("acme")
    async with receiver.database.transaction() as session:
        end = receiver.clock() + timedelta(hours=24)
        await receiver.api_keys.expire(session, receiver.extra_keys[old], at=end, actor="test")
    for hours, status in ((0, 202), (23.9, 202), (0.2, 401)):
        receiver.clock.advance(hours=hours)
        assert (await receiver.deliver(IDENTIFY, key=old)).status_code == status
        assert (await receiver.deliver(IDENTIFY, key=new)).status_code == 202


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_wh_13_other_methods_are_405_without_cors_headers(
    receiver: Receiver, sender: Sender, method: str
) -> None:
    asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    plain = await receiver.client.request(
        method, "/subscriptions/acme-crm", headers={"Authorization": basic(receiver.key), **asking}
    )
    assert (plain.status_code, plain.headers["allow"]) == (405, "POST")
    signed = await sender.send(IDENTIFY, method=method, headers=asking)
    assert signed.status_code == (202 if method in {"PUT", "PATCH"} else 405)
    for response in (plain, signed):
        assert not [name for name in response.headers if name.startswith("access-control")]
