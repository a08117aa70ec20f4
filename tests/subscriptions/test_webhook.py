"""Contract cases 63-77: who may deliver, in which form, and what the answers look like."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from db.control import accounts
from db.encryption import EncryptionKeys
from db.event_log.records import Appended, EventLogUnavailable, NewEvent
from db.event_log.sqlite import SqliteEventLog
from db.event_log.tables import EventState
from subscriptions import Event, Setting, Subscription
from subscriptions.receiving.webhook import WebhookLimits
from tests.subscriptions.receiver import Receiver, Recorder, basic, open_receiver

IDENTIFY = {"type": "identify", "userId": "cust_20418", "messageId": "m-1", "traits": {"email": "k@mail.example"}}


def check_form(response: httpx.Response) -> None:
    """Check that an answer has a length, and that Segment would show a refusal (contract 5.5)."""
    if response.status_code == 202:
        assert response.headers["content-length"] == "0"
    else:
        refusal(response)


def refusal(response: httpx.Response) -> str:
    """Return the message of a refusal, after checking that Segment would show it (contract 5.5)."""
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    message = response.json()["message"]
    assert isinstance(message, str)
    return message


async def test_case_063_a_valid_key_with_an_empty_password_is_accepted(stored_receiver: Receiver) -> None:
    response = await stored_receiver.deliver(IDENTIFY)
    assert response.status_code == 202
    assert (await stored_receiver.only()).message_id == "m-1"
    assert stored_receiver.received == [None]
    with_password = await stored_receiver.deliver(
        {**IDENTIFY, "messageId": "m-2"}, headers={"Authorization": basic(stored_receiver.key, "ignored")}
    )
    assert with_password.status_code == 202


async def test_case_064_no_authorization_is_401(receiver: Receiver) -> None:
    response = await receiver.client.post("/subscriptions/acme-crm", json=IDENTIFY)
    assert response.status_code == 401
    assert "API key" in refusal(response)
    assert response.headers["www-authenticate"].startswith("Basic")
    assert await receiver.records() == []


@pytest.mark.parametrize(
    "value",
    [
        "Basic ???",
        "Basic",
        "Bearer abc",
        "Basic " + base64.b64encode(b"no-colon").decode(),
        "Basic " + base64.b64encode(b":only a password").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:").decode(),
        "Basic " + "A" * 5_000,
    ],
)
async def test_case_065_malformed_credentials_are_401(receiver: Receiver, value: str) -> None:
    response = await receiver.deliver(IDENTIFY, headers={"Authorization": value})
    assert response.status_code == 401
    refusal(response)
    assert await receiver.records() == []


async def test_case_066_unknown_and_revoked_keys_are_401_and_a_suspended_account_is_403(receiver: Receiver) -> None:
    unknown = await receiver.deliver(IDENTIFY, key="ews_unknown")
    assert unknown.status_code == 401
    assert "ews_unknown" not in refusal(unknown)

    key = await receiver.mint("revoked-inc")
    async with receiver.database.transaction() as session:
        await receiver.api_keys.revoke(session, receiver.extra_keys[key], actor="test")
    assert (await receiver.deliver(IDENTIFY, key=key)).status_code == 401

    key = await receiver.mint("suspended-inc")
    async with receiver.database.transaction() as session:
        await accounts.set_suspended(session, "suspended-inc", receiver.clock())
    suspended = await receiver.deliver(IDENTIFY, key=key)
    assert suspended.status_code == 403
    assert "suspended" in refusal(suspended)
    assert await receiver.records() == []


async def test_a_key_of_another_component_is_403(receiver: Receiver) -> None:
    key = await receiver.mint("acme", component="acme-mail")
    response = await receiver.deliver(IDENTIFY, key=key)
    assert response.status_code == 403
    refusal(response)


async def test_case_067_a_key_is_found_by_its_hash_alone(receiver: Receiver, tmp_path: Path) -> None:
    # Whatever part of a guess is right, its hash is unrelated: nothing compares the clear key, nor could it.
    for guess in (receiver.key[:-1], receiver.key + "x", receiver.key.upper(), receiver.key[:10]):
        assert (await receiver.deliver(IDENTIFY, key=guess)).status_code == 401
    assert (await receiver.deliver(IDENTIFY)).status_code == 202
    stored = (tmp_path / "control.db").read_bytes()
    assert receiver.key.encode() not in stored


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_case_068_other_methods_are_405_and_reveal_nothing(receiver: Receiver, method: str) -> None:
    await receiver.deliver(IDENTIFY)
    response = await receiver.client.request(
        method, "/subscriptions/acme-crm", headers={"Authorization": basic(receiver.key)}
    )
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert b"cust_20418" not in response.content
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json; charset=utf-8", 202),
        ("application/vnd.segment+json", 202),
        ("APPLICATION/JSON", 202),
        ("", 202),
        ("text/html", 415),
        ("multipart/form-data", 415),
    ],
)
async def test_case_069_every_json_content_type_is_accepted(receiver: Receiver, content_type: str, status: int) -> None:
    response = await receiver.deliver(IDENTIFY, headers={"Content-Type": content_type})
    assert response.status_code == status
    check_form(response)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"type":"identify","userId":"u"',
        b"\xff\xfe{",
        b'{"type":"identify","userId":NaN}',
        b'{"type":"identify","userId":"u","x":1e999}',
        b'{"type":"identify","userId":"u","userId":"v"}',
        b'{"type":"identify","userId":"\\ud800"}',
        b'{"type":"identify","userId":"u","x":' + b"9" * 5_000 + b"}",
        b'{"type":"identify","userId":"u","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b"[" * 500_000,
    ],
    ids=lambda body: body[:40].decode(errors="replace"),
)
async def test_case_070_a_body_that_cannot_be_read_is_400(receiver: Receiver, body: bytes) -> None:
    response = await receiver.deliver(body)
    assert response.status_code == 400
    assert "cannot be read" in refusal(response)
    assert (await receiver.deliver(IDENTIFY)).status_code == 202


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b'[{"type":"identify","userId":"u"}]'])
async def test_case_071_json_that_is_no_object_is_400(receiver: Receiver, body: bytes) -> None:
    response = await receiver.deliver(body)
    assert response.status_code == 400
    assert "one JSON object" in refusal(response)


async def test_case_072_a_body_over_the_limit_is_413_before_all_of_it_is_read(receiver: Receiver) -> None:
    chunks_sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal chunks_sent
        for _ in range(1_000):
            chunks_sent += 1
            yield b" " * 65_536

    response = await receiver.client.post(
        "/subscriptions/acme-crm", content=endless(), headers={"Authorization": basic(receiver.key)}
    )
    assert response.status_code == 413
    refusal(response)
    assert chunks_sent == 17  # 1 MiB and one chunk more

    honest = await receiver.deliver(b" " * (1024 * 1024 + 1))
    assert honest.status_code == 413


async def test_gzip_is_unpacked_and_a_bomb_is_refused(receiver: Receiver) -> None:
    async def deliver(body: bytes, encoding: str = "gzip") -> int:
        response = await receiver.deliver(body, headers={"Content-Encoding": encoding})
        check_form(response)
        return response.status_code

    packed = gzip.compress(json.dumps(IDENTIFY).encode())
    assert await deliver(packed) == 202
    (detail,) = await receiver.log.show("m-1")
    assert detail.body == json.dumps(IDENTIFY).encode()
    assert await deliver(gzip.compress(b"[" + b" " * 200_000_000)) == 413
    assert await deliver(packed[:-5]) == 400
    assert await deliver(b"not gzip") == 400
    assert await deliver(gzip.compress(b"{") + gzip.compress(b"}")) == 400  # two members are one body: {}
    assert await deliver(packed, "br") == 415
    assert await deliver(packed, "gzip, gzip") == 415
    assert await deliver(json.dumps(IDENTIFY).encode(), "identity") == 202


_EU = json.dumps({"region": "eu", "sendAnonymous": "true", "endpoint": "https://elsewhere.example"}).encode()


@pytest.mark.parametrize(
    ("header", "region"),
    [
        (None, "us"),
        (b"", "us"),
        (base64.b64encode(_EU), "eu"),
        (base64.urlsafe_b64encode(_EU).rstrip(b"="), "eu"),
        (base64.b64encode(b"{}"), "us"),
        (_EU, "eu"),
        (b"%%% garbage", "us"),
        (base64.b64encode(b"[1]"), "us"),
        (base64.b64encode(b'{"region":'), "us"),
        (base64.b64encode(b'{"region":"mars"}'), "us"),
        (base64.b64encode(b'{"region":null}'), "us"),
        (base64.b64encode(b'{"region":"eu"}' + b" " * 20_000), "us"),
    ],
)
async def test_case_073_settings_in_every_form_are_accepted(
    receiver: Receiver, recorder: Recorder, header: bytes | None, region: str
) -> None:
    headers = {} if header is None else {"X-Segment-Settings": header.decode()}
    assert (await receiver.deliver(IDENTIFY, headers=headers)).status_code == 202
    await receiver.dispatcher.run_due()
    (settings,) = recorder.settings
    assert settings["region"] == region
    assert set(settings) == {"region", "sendAnonymous"}
    assert settings["sendAnonymous"] is (True if region == "eu" else None)


async def test_case_073_a_required_setting_that_is_missing_or_invalid_is_400_naming_it(
    tmp_path: Path, encryption: EncryptionKeys
) -> None:
    strict = Recorder(settings=[Setting("listId", type=int, required=True)])
    async with open_receiver(f"sqlite+aiosqlite:///{tmp_path}/control.db", encryption, strict.subscription) as receiver:
        for settings in (None, {}, {"listId": ""}, {"listId": "secret words"}):
            response = await receiver.deliver(IDENTIFY, settings=settings)
            assert response.status_code == 400
            assert "'listId'" in refusal(response)
            assert "secret words" not in refusal(response)
        assert (await receiver.deliver(IDENTIFY, settings={"list_id": "7"})).status_code == 202
        await receiver.dispatcher.run_due()
    assert strict.settings == [{"listId": 7}]


@pytest.mark.parametrize("agent", ["Segment.io/1.0", "Segment", "Segment (Actions)", "curl/8", ""])
async def test_case_074_any_user_agent_is_accepted(receiver: Receiver, agent: str) -> None:
    assert (await receiver.deliver(IDENTIFY, headers={"User-Agent": agent})).status_code == 202


@pytest.mark.parametrize(
    "path", ["/subscriptions/acme-crm", "/subscriptions/acme-crm/", "/subscriptions/other", "/subscriptions/a/b"]
)
async def test_case_075_an_answer_is_never_a_redirect_never_packed_and_has_a_length(
    receiver: Receiver, path: str
) -> None:
    response = await receiver.client.post(
        path, json=IDENTIFY, headers={"Authorization": basic(receiver.key), "Accept-Encoding": "gzip, br"}
    )
    assert response.status_code == (202 if "acme-crm" in path else 404)
    assert "content-encoding" not in response.headers
    assert "location" not in response.headers
    check_form(response)


async def test_case_076_an_answer_does_not_wait_for_a_handler(tmp_path: Path, encryption: EncryptionKeys) -> None:
    started, let_go = asyncio.Event(), asyncio.Event()
    slow = Subscription("acme-crm")

    @slow.on("identify")
    async def hang(event: Event) -> None:
        started.set()
        await let_go.wait()

    async with open_receiver(f"sqlite+aiosqlite:///{tmp_path}/control.db", encryption, slow) as receiver:
        running = asyncio.create_task(receiver.dispatcher.run())
        await receiver.deliver(IDENTIFY)
        receiver.dispatcher.wake()
        await started.wait()
        # The handler of the first event hangs; more deliveries are answered all the same.
        for number in range(20):
            assert (await receiver.deliver({**IDENTIFY, "messageId": f"m-{number}"})).status_code == 202
        let_go.set()
        await receiver.dispatcher.idle()
        receiver.dispatcher.stop()
        await running
        assert {record.state for record in await receiver.records()} == {EventState.HANDLED}


class BrokenLog(SqliteEventLog):
    """An event log whose database is down."""

    def __init__(self, problem: BaseException | None) -> None:
        self._problem = problem

    async def append(self, event: NewEvent) -> Appended:  # noqa: ARG002  it never gets that far
        if self._problem is None:
            await asyncio.Event().wait()
        raise self._problem or AssertionError


@pytest.mark.parametrize("problem", [EventLogUnavailable("postgres://user:secret@host is down"), OSError("x"), None])
async def test_case_077_our_own_trouble_is_503_with_retry_after(
    tmp_path: Path, encryption: EncryptionKeys, problem: BaseException | None
) -> None:
    async with open_receiver(
        f"sqlite+aiosqlite:///{tmp_path}/control.db",
        encryption,
        Recorder().subscription,
        event_log=BrokenLog(problem),
        webhook_limits=WebhookLimits(store_seconds=0.05),
    ) as receiver:
        key = await receiver.mint("acme")
        # Looking the key up has to succeed within the short time, so that the log is what fails.
        assert (await receiver.api_keys.look_up(key)).holder is not None
        response = await receiver.deliver(IDENTIFY, key=key)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert "secret" not in refusal(response)


async def test_case_077_a_key_store_that_is_down_is_503(receiver: Receiver) -> None:
    async with receiver.database.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE api_keys RENAME TO elsewhere")
    response = await receiver.deliver(IDENTIFY)
    assert response.status_code == 503
    assert "api_keys" not in refusal(response)


async def test_a_bug_is_500_with_an_incident_id_and_no_details(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subscriptions.receiving.webhook.check_event", lambda event: event.no_such_attribute)
    response = await receiver.deliver(IDENTIFY)
    assert response.status_code == 500
    message = refusal(response)
    assert "inc_" in message
    assert "attribute" not in message
    incident = message.partition("incident ")[2].rstrip(").")
    assert incident in caplog.text


async def test_an_event_without_handler_is_501_and_the_log_names_one_once(
    tmp_path: Path, encryption: EncryptionKeys, caplog: pytest.LogCaptureFixture
) -> None:
    only_track = Recorder(types=("track",))
    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    async with open_receiver(url, encryption, only_track.subscription) as receiver:
        with caplog.at_level(logging.WARNING, "subscriptions.receiving.webhook"):
            for number in range(3):
                assert (await receiver.deliver({**IDENTIFY, "messageId": f"m-{number}"})).status_code == 501
        assert caplog.text.count('@subscription.on("identify")') == 1
        assert await receiver.records() == []


async def test_a_sender_that_hangs_up_gets_no_answer_and_leaves_nothing(receiver: Receiver) -> None:
    sent: list[object] = []
    messages: Iterator[dict[str, object]] = iter(
        [{"type": "http.request", "body": b'{"type":', "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> dict[str, object]:
        return next(messages)

    async def send(message: object) -> None:
        sent.append(message)

    headers = [(b"authorization", basic(receiver.key).encode())]
    scope = {"type": "http", "method": "POST", "path": "/acme-crm", "root_path": "", "headers": headers}
    await receiver.webhook(scope, receive, send)
    assert sent == []
    assert await receiver.records() == []


async def test_deliveries_over_a_real_socket(receiver: Receiver) -> None:
    """Uvicorn in front, as in production: keep-alive, chunked bodies, and a refusal before the body is read."""
    app = receiver.client._transport.app  # type: ignore[attr-defined]
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:  # noqa: ASYNC110  uvicorn offers no event
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/subscriptions/acme-crm"
        async with httpx.AsyncClient(headers={"Authorization": basic(receiver.key)}) as client:

            async def chunks() -> AsyncIterator[bytes]:
                for character in json.dumps(IDENTIFY):
                    yield character.encode()

            assert (await client.post(url, content=chunks())).status_code == 202
            assert (await client.post(url, content=b"{")).status_code == 400
            assert (await client.post(url, json=IDENTIFY, headers={"Authorization": "?"})).status_code == 401
            assert (await client.head(url)).status_code == 405
            together = await asyncio.gather(
                *(client.post(url, json={**IDENTIFY, "messageId": f"m-{number}"}) for number in range(50))
            )
            assert {response.status_code for response in together} == {202}
    finally:
        server.should_exit = True
        await serving
    assert len(await receiver.records()) == 50
