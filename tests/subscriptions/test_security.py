"""The security statements about receiving, WH-1 to WH-13, at the door for API keys and at the signed one."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event as sql_event

from db.encryption import EncryptionKeys
from db.event_log.opening import open_event_log
from db.event_log.records import Appended, EventLogUnavailable, NewEvent
from db.event_log.sql import SqlEventLog
from db.event_log.tables import EventState
from subscriptions import Event, InstallContext, InvalidEventPayload, Setting, Subscription
from subscriptions.errors import DeliveryRefused
from subscriptions.receiving.body import Receive, read_body
from subscriptions.receiving.signature import sign, signed_text
from tests.subscriptions.receiver import Receiver, Recorder, basic, open_receiver
from tests.subscriptions.test_signed_webhook import Sender, encode

MIB = 1024 * 1024
IDENTIFY = {"type": "identify", "userId": "cust_20418", "messageId": "m-1", "traits": {"email": "k@mail.example"}}
HOSTILE = [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"type":"identify","userId":"u","x":' + b"9" * 5_000 + b"}",
    b'{"type":"identify","userId":"u","x":1e999}',
    b'{"type":"identify","userId":NaN}',
    b'{"type":"identify","userId":"u","userId":"v"}',
    b'{"type":"identify","userId":"\\ud800"}',
    b'{"type":"identify","userId":"\xff"}',
    b"\x00",
]


@contextmanager
def statements(receiver: Receiver) -> Iterator[list[tuple[str, str]]]:
    """Collect what the control store is asked while the block runs: statement and parameters."""
    seen: list[tuple[str, str]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.append((statement, str(parameters)))

    engine = receiver.database.engine.sync_engine
    sql_event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sql_event.remove(engine, "before_cursor_execute", note)


def message(response: httpx.Response) -> str:
    """The answer's sentence; every answer has one."""
    assert response.headers["content-type"] == "application/json"
    text = response.json()["message"]
    assert isinstance(text, str)
    return text


@pytest.fixture
async def sender(receiver: Receiver) -> Sender:
    return Sender(receiver, *await receiver.mint_signed())


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"Basic",
        b"Bearer abc",
        b"Basic %%%",
        b"Basic " + base64.b64encode(b"no colon"),
        b"Basic " + base64.b64encode(b":"),
        b"Basic " + base64.b64encode(b"\xff\xfe:"),
        b"Basic " + base64.b64encode(b"x" * 5_000 + b":"),
    ],
)
async def test_wh_01_a_malformed_authorization_is_401_and_no_store_is_asked(
    receiver: Receiver, value: bytes | None
) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(True)
        yield b""

    headers = {} if value is None else {b"authorization": value}
    with statements(receiver) as seen:
        response = await receiver.client.post("/subscriptions/acme-crm", content=body(), headers=headers)
    assert response.status_code == 401
    assert message(response)
    assert read == []
    assert seen == []
    assert await receiver.records() == []


async def test_wh_02_whatever_is_right_about_a_guess_the_same_question_is_asked(receiver: Receiver) -> None:
    # The clear key takes part in no comparison at all: what is asked for is a keyed hash, unrelated for every guess.
    guesses = [receiver.key[:-1] + "!", receiver.key[:8] + "x" * 36, "ews_" + "x" * 40, "x", receiver.key.swapcase()]
    asked: set[str] = set()
    hashes: list[str] = []
    for guess in guesses:
        with statements(receiver) as seen:
            assert (await receiver.deliver(IDENTIFY, key=guess)).status_code == 401
        lookups = [(statement, parameters) for statement, parameters in seen if "key_hash" in statement]
        assert len(lookups) <= 1
        for statement, parameters in lookups:
            asked.add(statement)
            hashes.append(parameters)
            assert guess not in parameters
    assert len(asked) <= 1
    assert len(set(hashes)) == len(hashes)
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


async def _peak(chunks: list[bytes], *, limit: int, encoding: bytes | None = None) -> tuple[int, int, int]:
    """Read a body in chunks; returns the refusal's status, how many chunks were read, and the most memory it took."""
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": chunks[taken - 1], "more_body": taken < len(chunks)}

    reading: Receive = receive
    tracemalloc.start()
    try:
        with pytest.raises(DeliveryRefused) as refused:
            await read_body(reading, encoding=encoding, content_length=b"10", limit=limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return refused.value.status, taken, peak


async def test_wh_04_the_limit_holds_while_streaming_whatever_the_length_says() -> None:
    chunk = b" " * 65_536
    status, taken, peak = await _peak([chunk] * 1_000, limit=MIB)
    assert (status, taken) == (413, 17)
    assert peak < 2 * MIB


async def test_wh_04_a_length_over_the_limit_is_refused_before_a_byte_is_read(receiver: Receiver) -> None:
    async def never_read() -> dict[str, Any]:
        raise AssertionError("the body was read")

    with pytest.raises(DeliveryRefused) as refused:
        await read_body(never_read, encoding=None, content_length=b"99999999999999999999999", limit=MIB)
    assert refused.value.status == 413
    honest = await receiver.deliver(b" " * (MIB + 1))
    assert honest.status_code == 413


async def test_wh_05_a_bomb_is_refused_by_what_it_unpacks_to() -> None:
    bomb = gzip.compress(b" " * (300 * MIB), compresslevel=1)
    assert len(bomb) < 2 * MIB
    chunks = [bomb[start : start + 65_536] for start in range(0, len(bomb), 65_536)]
    status, taken, peak = await _peak(chunks, limit=4 * MIB, encoding=b"gzip")
    assert status == 413
    assert taken < len(chunks)
    assert peak < 16 * MIB


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "compress", "\x7f"])
async def test_wh_05_unknown_encodings_are_415(receiver: Receiver, sender: Sender, encoding: str) -> None:
    assert (await receiver.deliver(IDENTIFY, headers={"Content-Encoding": encoding})).status_code == 415
    assert (await sender.send(IDENTIFY, headers={"Content-Encoding": encoding})).status_code == 415


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: body[:30].decode(errors="replace"))
async def test_wh_06_hostile_json_is_400_and_the_worker_lives_on(
    receiver: Receiver, sender: Sender, body: bytes
) -> None:
    response = await receiver.deliver(body)
    assert response.status_code == 400
    assert "cannot be read" in message(response)
    signature = sign(sender.secret, body)
    assert (await sender.send(body, signature=signature)).status_code == 400
    assert (await receiver.deliver(IDENTIFY)).status_code == 202
    assert len(await receiver.records()) == 1


@pytest.mark.parametrize("header", [b"%%%", base64.b64encode(b"[1]"), b"{", b"A" * 50_000, b"\xff\xfe"])
async def test_wh_07_settings_that_cannot_be_read_count_as_none_and_are_logged(
    receiver: Receiver, recorder: Recorder, caplog: pytest.LogCaptureFixture, header: bytes
) -> None:
    with caplog.at_level(logging.WARNING, "subscriptions.receiving.settings_reader"):
        response = await receiver.client.post(
            "/subscriptions/acme-crm",
            content=encode(IDENTIFY),
            headers=[(b"authorization", basic(receiver.key).encode()), (b"x-segment-settings", header)],
        )
    assert response.status_code == 202
    assert "X-Segment-Settings is left out" in caplog.text
    await receiver.dispatcher.run_due()
    assert recorder.settings == [{"region": "us", "sendAnonymous": None}]


async def test_wh_07_settings_select_nothing_but_values(receiver: Receiver, recorder: Recorder) -> None:
    wicked = {
        "endpoint": "http://169.254.169.254/",
        "host": "evil.example",
        "__class__": "os.system",
        "handlers": "evil:crm",
        "region": "../../etc/passwd",
        "component": "acme-mail",
        "account": "somebody-else",
    }
    assert (await receiver.deliver(IDENTIFY, settings=wicked)).status_code == 202
    await receiver.dispatcher.run_due()
    assert recorder.settings == [{"region": "us", "sendAnonymous": None}]
    assert recorder.installs[0].account == "acme"
    assert (await receiver.only()).component == "acme-crm"


async def test_wh_07_only_a_required_setting_is_a_400_and_it_is_named(
    tmp_path: Path, encryption: EncryptionKeys
) -> None:
    strict = Recorder(settings=[Setting("listId", type=int, required=True), Setting("region")])
    async with open_receiver(f"sqlite+aiosqlite:///{tmp_path}/control.db", encryption, strict.subscription) as receiver:
        response = await receiver.deliver(IDENTIFY, settings={"region": 7, "listId": "<script>"})
        assert response.status_code == 400
        assert "'listId'" in message(response)
        assert "script" not in message(response)


class GatedLog(SqlEventLog):
    """An event log that commits when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.commit = asyncio.Event()

    async def append(self, event: NewEvent) -> Appended:  # noqa: ARG002  what is asked is enough to know
        self.asked.set()
        await self.commit.wait()
        return Appended(1)


async def test_wh_08_nothing_is_answered_before_the_commit(tmp_path: Path, encryption: EncryptionKeys) -> None:
    log = GatedLog()
    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    async with open_receiver(url, encryption, Recorder().subscription, event_log=log) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        for deliver in (receiver.deliver, sender.send):
            log.asked.clear()
            log.commit.clear()
            answering = asyncio.create_task(deliver(IDENTIFY))
            await log.asked.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not answering.done()
            log.commit.set()
            assert (await answering).status_code == 202


async def test_wh_08_what_was_answered_is_there_for_whoever_opens_the_log_next(
    tmp_path: Path, encryption: EncryptionKeys
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    async with open_receiver(url, encryption, Recorder().subscription) as receiver:
        assert (await receiver.deliver(IDENTIFY)).status_code == 202
        other = open_event_log(url.replace("control.db", "events.db"))
        try:
            assert (await other.prove(["m-1", "m-2"])).missing == ("m-2",)
        finally:
            await other.close()


async def test_wh_09_the_same_message_id_has_one_effect_for_each_install(
    receiver: Receiver, recorder: Recorder
) -> None:
    other = await receiver.mint("acme", install_id="ins_other")
    for _ in range(3):
        assert (await receiver.deliver(IDENTIFY)).status_code == 202
        assert (await receiver.deliver(IDENTIFY, key=other)).status_code == 202
    await receiver.dispatcher.run_due()
    assert len(recorder.events) == 2
    assert sorted(str(install.install_id) for install in recorder.installs) == ["None", "ins_other"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["identify", "track"])), min_size=1, max_size=40))
async def test_wh_10_an_event_never_meets_another_installs_context(
    tmp_path_factory: pytest.TempPathFactory, encryption: EncryptionKeys, sent: list[tuple[int, str]]
) -> None:
    crm, met = Subscription("acme-crm"), list[tuple[str | None, InstallContext]]()

    @crm.on("identify")
    async def one(event: Event, install: InstallContext) -> None:
        met.append((event.user_id, install))

    @crm.on("track", batch=10)
    async def many(events: list[Event], install: InstallContext) -> None:
        met.extend((event.user_id, install) for event in events)

    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('wh10')}/control.db"
    async with open_receiver(url, encryption, crm) as receiver:
        plain = [await receiver.mint(f"account-{n}", install_id=f"ins_{n}") for n in range(3)]
        signed = [Sender(receiver, *await receiver.mint_signed(f"account-{n}")) for n in range(3, 6)]
        for number, (whose, event_type) in enumerate(sent):
            event = {"type": event_type, "event": "Paid", "userId": f"account-{whose}", "messageId": f"m-{number % 7}"}
            if whose < 3:
                assert (await receiver.deliver(event, key=plain[whose])).status_code == 202
            else:
                assert (await signed[whose - 3].send([event])).status_code == 202
        await receiver.dispatcher.run_due()
    assert met
    assert all(install.account == user_id for user_id, install in met)
    assert {install.install_id for user_id, install in met if user_id == "account-1"} <= {"ins_1"}


class BrokenLog(SqlEventLog):
    """An event log whose database is down."""

    def __init__(self) -> None:
        pass

    async def append(self, event: NewEvent) -> Appended:
        raise EventLogUnavailable(f"INSERT INTO events failed on db-7.internal for {event.body!r}")


async def test_wh_11_wh_12_each_kind_of_failure_has_its_status_and_tells_no_internals(
    tmp_path: Path, encryption: EncryptionKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = Recorder(types=("identify", "track"), settings=[Setting("listId", type=int)])
    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    answers: dict[int, list[str]] = {}

    def keep(response: httpx.Response) -> int:
        answers.setdefault(response.status_code, []).append(message(response))
        if response.status_code == 503:
            assert int(response.headers["retry-after"]) > 0
        return response.status_code

    async with open_receiver(url, encryption, only.subscription, event_log=BrokenLog()) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed("globex"))
        page = {"type": "page", "userId": "u-1"}
        for deliver in (receiver.deliver, sender.send):
            assert keep(await deliver(page)) == 501
            assert keep(await deliver(IDENTIFY)) == 503
            assert keep(await deliver({"type": "track", "userId": "k@mail.example"})) == 400
            assert keep(await deliver(b"{not json k@mail.example")) == 400
        assert keep(await receiver.deliver(IDENTIFY, key="ews_guess")) == 401
        assert keep(await receiver.deliver(IDENTIFY, component="globex-crm")) == 404
        with monkeypatch.context() as broken:
            for module in ("webhook", "signed_webhook"):
                broken.setattr(f"subscriptions.receiving.{module}.check_event", lambda event: event.no_such_attribute)
            for deliver in (receiver.deliver, sender.send):
                assert keep(await deliver(IDENTIFY)) == 500
    assert all("incident inc_" in text for text in answers[500])
    said = json.dumps(answers)
    for internal in ("INSERT", "internal", "Traceback", "attribute", "sqlite", "globex", "mail.example", "ews_guess"):
        assert internal not in said


async def test_wh_11_what_a_handler_finds_invalid_is_a_dead_letter_with_its_reason(
    tmp_path: Path, encryption: EncryptionKeys
) -> None:
    crm = Subscription("acme-crm")

    @crm.on("identify")
    async def refuse(event: Event) -> None:
        raise InvalidEventPayload("the e-mail address is missing")

    async with open_receiver(f"sqlite+aiosqlite:///{tmp_path}/control.db", encryption, crm) as receiver:
        # The answer does not wait for a handler, so it cannot be 400 any more (contract case 76).
        assert (await receiver.deliver(IDENTIFY)).status_code == 202
        await receiver.dispatcher.run_due()
        record = await receiver.only(state=EventState.DEAD_LETTER)
        assert "the e-mail address is missing" in str(record.last_error)


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


def test_the_signed_text_of_hostile_batches_is_found_without_parsing_them() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert signed_text(deep) == deep[1:-1]
