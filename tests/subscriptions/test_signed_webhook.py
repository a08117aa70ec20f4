"""Signed deliveries of the Webhooks destinations (contract 5.12), against real stores."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from db.encryption import EncryptionKeys
from db.event_log.records import Appended, EventLogUnavailable, NewEvent
from db.event_log.sql import SqlEventLog
from db.event_log.tables import EventState
from subscriptions import Setting
from subscriptions.receiving.signature import sign, signed_text
from subscriptions.receiving.signed_webhook import SignedWebhookLimits
from subscriptions.receiving.webhook import WebhookLimits
from tests.subscriptions.receiver import Receiver, Recorder, basic, open_receiver

TRACK = {"type": "track", "event": "Ticket Closed", "userId": "u-881", "messageId": "m-0001"}


class Sender:
    """A Webhooks destination: a key, a secret, and bodies signed as Segment signs them."""

    def __init__(self, receiver: Receiver, key: str, secret: str) -> None:
        self.receiver = receiver
        self.key = key
        self.secret = secret

    async def send(
        self,
        value: object,
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        signature: str | None = None,
        path: str | None = None,
    ) -> httpx.Response:
        """Send a value, or bytes as they are."""
        body = value if isinstance(value, bytes) else encode(value)
        sent = {"Content-Type": "application/json", "X-Signature": signature or sign(self.secret, signed_text(body))}
        url = path or f"/subscriptions/acme-crm/{self.key}"
        return await self.receiver.client.request(method, url, content=body, headers={**sent, **(headers or {})})


def encode(value: object) -> bytes:
    """JSON text as JavaScript writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def message(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/json"
    text = response.json()["message"]
    assert isinstance(text, str)
    return text


@pytest.fixture
async def sender(receiver: Receiver) -> Sender:
    return Sender(receiver, *await receiver.mint_signed())


async def test_case_108_a_correctly_signed_event_is_accepted_and_handled(sender: Sender, recorder: Recorder) -> None:
    assert (await sender.send(TRACK)).status_code == 202
    record = await sender.receiver.only()
    assert (record.account, record.message_id, record.event) == ("acme", "m-0001", "Ticket Closed")
    await sender.receiver.dispatcher.run_due()
    (event,) = recorder.events
    assert event.user_id == "u-881"
    assert recorder.installs[0].account == "acme"


async def test_case_108_the_key_may_stand_in_a_header_that_the_mapping_sets(sender: Sender) -> None:
    for path in ("/subscriptions/acme-crm", "/subscriptions/acme-crm/"):
        response = await sender.send(TRACK, path=path, headers={"Authorization": basic(sender.key)})
        assert response.status_code == 202
    assert (await sender.receiver.only()).duplicates == 1


@pytest.mark.parametrize("signature", ["0" * 40, "4ad6918a833c2aafb72b2845d6386d40a8387ea9", " ", "~", "a" * 5_000])
async def test_case_109_a_wrong_signature_is_401(sender: Sender, signature: str) -> None:
    response = await sender.send(TRACK, headers={"X-Signature": signature})
    assert response.status_code == 401
    assert "X-Signature" in message(response)
    assert sender.secret not in message(response)
    assert await sender.receiver.records() == []


async def test_case_109_a_missing_or_repeated_signature_is_401(sender: Sender) -> None:
    url = f"/subscriptions/acme-crm/{sender.key}"
    assert (await sender.receiver.client.post(url, json=TRACK)).status_code == 401
    twice = [("X-Signature", sign(sender.secret, encode(TRACK)))] * 2
    assert (await sender.receiver.client.post(url, content=encode(TRACK), headers=twice)).status_code == 401
    # The same key without a signature does not get in by the door for unsigned deliveries either.
    assert (await sender.receiver.deliver(TRACK, key=sender.key)).status_code == 401
    assert await sender.receiver.records() == []


async def test_case_109_a_signature_with_the_secret_of_another_account_is_401(sender: Sender) -> None:
    _, other_secret = await sender.receiver.mint_signed("other-inc")
    response = await sender.send(TRACK, signature=sign(other_secret, encode(TRACK)))
    assert response.status_code == 401


async def test_case_110_a_batch_is_verified_on_its_raw_first_element(sender: Sender, recorder: Recorder) -> None:
    first = '{"type":"identify","userId":"u-9","traits":{"name":"Zoë","score":1.5}}'
    body = f'[{first},{{"type":"track","event":"Ünlü","userId":"u-9"}}]'.encode()
    assert (await sender.send(body, signature=sign(sender.secret, first.encode()))).status_code == 202
    assert (await sender.send(body, signature=sign(sender.secret, body))).status_code == 401
    await sender.receiver.dispatcher.run_due()
    by_type = {event.type: event for event in recorder.events}
    assert by_type["identify"].traits["name"] == "Zoë"
    assert by_type["track"].event == "Ünlü"


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_case_111_put_and_patch_are_accepted_where_deliveries_are_signed(sender: Sender, method: str) -> None:
    assert (await sender.send(TRACK, method=method)).status_code == 202
    assert (await sender.send([TRACK], method=method)).status_code == 202
    assert (await sender.receiver.only()).duplicates == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
async def test_other_methods_are_405_and_reveal_nothing(sender: Sender, method: str) -> None:
    response = await sender.send(TRACK, method=method)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST, PUT, PATCH"
    assert not [name for name in response.headers if name.startswith("access-control")]


BAD_ELEMENTS: list[tuple[str, str]] = [
    ('{"event":"No type","userId":"u-1","messageId":"bad-1"}', "no 'type'"),
    ('{"type":"track","userId":"u-1"}', "needs its name"),
    ('{"type":"identify"}', "neither 'userId'"),
    ('"text"', "one JSON object"),
    ("null", "one JSON object"),
    ("nan", "cannot be read"),
    ('{"type":"identify","userId":"u-1","userId":"u-2"}', "cannot be read"),
    ("[" * 500 + "]" * 500, "cannot be read"),
    ('{"type":"delete","messageId":"bad-2"}', "needs a 'userId'"),
]


@pytest.mark.parametrize(("element", "reason"), BAD_ELEMENTS, ids=[reason for _, reason in BAD_ELEMENTS])
async def test_case_112_a_bad_element_is_recorded_and_spoils_nothing(
    sender: Sender, recorder: Recorder, element: str, reason: str
) -> None:
    body = f"[{encode(TRACK).decode()},{element}]".encode()
    response = await sender.send(body)
    assert response.status_code == 202
    assert "Accepted 1 of 2" in message(response)
    await sender.receiver.dispatcher.run_due()
    assert [event.message_id for event in recorder.events] == ["m-0001"]
    bad = await sender.receiver.only(state=EventState.DEAD_LETTER)
    assert bad.type == "invalid"
    assert reason in str(bad.last_error)
    assert bad.message_id is not None
    (kept,) = await sender.receiver.log.show(bad.message_id)
    assert kept.body == element.encode()
    # When the batch comes again, nothing is stored twice, the bad one included.
    assert (await sender.send(body)).status_code == 202
    assert len(await sender.receiver.records()) == 2


async def test_case_112_an_element_nobody_handles_is_recorded_too(tmp_path: Path, encryption: EncryptionKeys) -> None:
    only_track = Recorder(types=("track",))
    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    async with open_receiver(url, encryption, only_track.subscription) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        assert (await sender.send([TRACK, {"type": "page", "userId": "u-1"}])).status_code == 202
        await receiver.dispatcher.run_due()
        assert {record.type: record.state for record in await receiver.records()} == {
            "track": EventState.HANDLED,
            "page": EventState.UNSUPPORTED,
        }
        # A single one is told, so that the customer's debugger shows it.
        assert (await sender.send({"type": "page", "userId": "u-1"})).status_code == 501


async def test_a_deletion_covers_bad_elements_that_name_the_person(sender: Sender) -> None:
    bad = {"type": "track", "userId": "u-881", "messageId": "bad", "timestamp": "2026-03-01T00:00:00Z"}
    await sender.send([TRACK, bad])
    await sender.receiver.dispatcher.run_due()
    assert (await sender.send({"type": "delete", "userId": "u-881", "messageId": "d-1"})).status_code == 202
    await sender.receiver.dispatcher.run_due()
    (kept,) = await sender.receiver.log.show("bad")
    assert kept.body is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"track","event":"Paid","userId":"u-1","properties":{"total":1.0,"path":"a\\/b"}}',
        b'{"userId":"u-1", "type" : "track","event":"Zo\\u00eb","x":1e2}',
        b'[{"type":"track","event":"Paid","userId":"u-1","total":10.50}, {"type":"track","event":"A","userId":"u"} ]',
    ],
)
async def test_case_113_json_that_would_be_written_differently_is_verified_on_raw_bytes(
    sender: Sender, body: bytes
) -> None:
    first = signed_text(body)
    assert encode(json.loads(first)) != first
    assert (await sender.send(body, signature=sign(sender.secret, first))).status_code == 202
    assert (await sender.send(body, signature=sign(sender.secret, encode(json.loads(first))))).status_code == 401


async def test_a_batch_of_four_thousand_is_accepted_and_a_longer_one_refused_whole(sender: Sender) -> None:
    batch: list[dict[str, Any]] = [{**TRACK, "messageId": f"m-{number}"} for number in range(4_000)]
    response = await sender.send(batch)
    assert response.status_code == 202
    assert message(response) == "Accepted 4000 events."
    assert (await sender.receiver.log.counts(sender.receiver.clock())).total == 4_000
    response = await sender.send([*batch, {**TRACK, "messageId": "m-4000"}])
    assert response.status_code == 413
    assert (await sender.receiver.log.counts(sender.receiver.clock())).total == 4_000


async def test_sizes_are_bounded_packed_and_unpacked(tmp_path: Path, encryption: EncryptionKeys) -> None:
    limits = SignedWebhookLimits(body_bytes=200_000, single_bytes=1_000)
    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    async with open_receiver(url, encryption, Recorder().subscription, signed_limits=limits) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        small = encode([TRACK])
        packed = {"Content-Encoding": "gzip"}
        signature = sign(sender.secret, encode(TRACK))
        assert (await sender.send(gzip.compress(small), signature=signature, headers=packed)).status_code == 202
        bomb = gzip.compress(b"[" + b" " * 50_000_000)
        assert (await sender.send(bomb, signature=signature, headers=packed)).status_code == 413
        assert (await sender.send({**TRACK, "text": "x" * 1_000})).status_code == 413
        assert (await sender.send([{**TRACK, "text": "x" * 250_000}])).status_code == 413
        assert (await sender.send(small, headers={"Content-Encoding": "br"})).status_code == 415

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b" " * 65_536

        response = await receiver.client.post(
            f"/subscriptions/acme-crm/{sender.key}", content=endless(), headers={"X-Signature": signature}
        )
        assert response.status_code == 413


async def test_keys_are_checked_before_the_body_is_read(sender: Sender) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(True)
        yield b""

    receiver = sender.receiver
    async with receiver.database.transaction() as session:
        await receiver.api_keys.revoke(session, receiver.extra_keys[sender.key], actor="test")
    _, other = await receiver.mint_signed(component="acme-mail")
    wrong_component = next(key for key in receiver.extra_keys if key != sender.key)
    assert other
    for path, status in [
        (f"/subscriptions/acme-crm/{sender.key}", 401),
        ("/subscriptions/acme-crm/ewh_unknown", 401),
        (f"/subscriptions/acme-crm/{wrong_component}", 403),
        (f"/subscriptions/acme-crm/{receiver.key}/more", 404),
        (f"/subscriptions/nothing-here/{sender.key}", 404),
    ]:
        response = await receiver.client.post(path, content=body(), headers={"X-Signature": "0" * 40})
        assert response.status_code == status, path
        assert message(response)
    assert read == []


async def test_a_key_without_a_signing_secret_is_refused_in_the_path(receiver: Receiver) -> None:
    sender = Sender(receiver, receiver.key, "no secret")
    response = await sender.send(TRACK)
    assert response.status_code == 401
    assert "no signing secret" in message(response)


@pytest.mark.parametrize("body", [b"[1", b"[1,]", b"[] x", b"{", b"text", b""])
async def test_a_body_that_cannot_be_told_apart_is_400(sender: Sender, body: bytes) -> None:
    try:
        signed = signed_text(body)
    except ValueError:
        signed = body
    assert (await sender.send(body, signature=sign(sender.secret, signed))).status_code == 400
    assert await sender.receiver.records() == []


async def test_an_empty_batch_is_accepted_and_stores_nothing(sender: Sender) -> None:
    assert message(await sender.send([])) == "Accepted 0 events."
    assert await sender.receiver.records() == []


async def test_an_event_without_message_id_is_deduplicated_by_its_body(sender: Sender) -> None:
    event = {"type": "track", "event": "Ticket Closed", "userId": "u-881"}
    assert (await sender.send(event)).status_code == 202
    assert (await sender.send([event])).status_code == 202
    assert (await sender.receiver.only()).duplicates == 1


class NoLog(SqlEventLog):
    """An event log that cannot be reached."""

    def __init__(self) -> None:
        pass

    async def append(self, event: NewEvent) -> Appended:  # noqa: ARG002  it never gets that far
        raise EventLogUnavailable("postgres://user:secret@host is down")


async def test_our_own_trouble_is_503_with_retry_after(tmp_path: Path, encryption: EncryptionKeys) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    async with open_receiver(url, encryption, Recorder().subscription, event_log=NoLog()) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        for value in (TRACK, [TRACK, TRACK]):
            response = await sender.send(value)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            assert "secret" not in message(response)


async def test_a_required_setting_can_come_from_a_header_of_the_mapping(
    tmp_path: Path, encryption: EncryptionKeys
) -> None:
    strict = Recorder(settings=[Setting("listId", type=int, required=True)])
    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    async with open_receiver(url, encryption, strict.subscription) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        assert (await sender.send(TRACK)).status_code == 400
        assert (await sender.send(TRACK, headers={"X-Segment-Settings": '{"listId":7}'})).status_code == 202
        await receiver.dispatcher.run_due()
    assert strict.settings == [{"listId": 7}]


async def test_case_121_keys_and_secrets_are_not_stored_in_clear(sender: Sender, tmp_path: Path) -> None:
    stored = (tmp_path / "control.db").read_bytes()
    assert sender.key.encode() not in stored
    assert sender.secret.encode() not in stored


async def test_a_batch_that_was_stored_in_part_is_complete_after_the_retry(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, stored = sender.receiver.log.append, list[Appended]()

    async def fail_late(event: NewEvent) -> Appended:
        if len(stored) >= 250:
            raise EventLogUnavailable("the disk is full")
        stored.append(await append(event))
        return stored[-1]

    batch = [{**TRACK, "messageId": f"m-{number}"} for number in range(500)]
    with monkeypatch.context() as failing:
        failing.setattr(sender.receiver.log, "append", fail_late)
        assert (await sender.send(batch)).status_code == 503
    assert 0 < len(await sender.receiver.records()) < 500
    assert (await sender.send(batch)).status_code == 202
    found = await sender.receiver.records()
    assert sorted(str(record.message_id) for record in found) == sorted(f"m-{number}" for number in range(500))


async def test_bad_elements_of_every_kind_are_stored_on_both_engines(stored_receiver: Receiver) -> None:
    sender = Sender(stored_receiver, *await stored_receiver.mint_signed())
    bad = [
        *(element.encode() for element, _ in BAD_ELEMENTS),
        b'{"messageId":"nul\\u0000inside","userId":"u\\u0000"}',
        b'{"messageId":"' + b"x" * 5_000 + b'"}',
        b'"\xff\xfe"',
        b'{"a":"\\ud800"}',
    ]
    body = b"[" + b",".join([encode(TRACK), *bad]) + b"]"
    assert (await sender.send(body)).status_code == 202
    await stored_receiver.dispatcher.run_due()
    found = await stored_receiver.records()
    assert [record.state for record in found].count(EventState.DEAD_LETTER) == len(bad)
    assert [record.state for record in found].count(EventState.HANDLED) == 1
    assert all(record.last_error for record in found if record.state is EventState.DEAD_LETTER)


async def test_bodies_in_memory_are_bounded_together(tmp_path: Path, encryption: EncryptionKeys) -> None:
    limits = SignedWebhookLimits(body_bytes=10_000, memory_bytes=15_000)
    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    async with open_receiver(url, encryption, Recorder().subscription, signed_limits=limits) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        arriving, let_go = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            arriving.set()
            await let_go.wait()
            yield encode(TRACK)

        headers = {"X-Signature": sign(sender.secret, encode(TRACK))}
        # Without a length it could be as large as any.
        slow = asyncio.create_task(
            receiver.client.post(f"/subscriptions/acme-crm/{sender.key}", content=slowly(), headers=headers)
        )
        await arriving.wait()
        assert (await sender.send({**TRACK, "messageId": "small"})).status_code == 202
        refused = await sender.send({**TRACK, "messageId": "large", "text": "x" * 6_000})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        let_go.set()
        assert (await slow).status_code == 202
        assert (await sender.send({**TRACK, "messageId": "large", "text": "x" * 6_000})).status_code == 202


async def test_wh_11_signed_and_plain_deliveries_are_counted_together(
    tmp_path: Path, encryption: EncryptionKeys
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    limits = WebhookLimits(deliveries_at_once=1)
    async with open_receiver(url, encryption, Recorder().subscription, webhook_limits=limits) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        arriving, let_go = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            arriving.set()
            await let_go.wait()
            yield encode(TRACK)

        headers = {"X-Signature": sign(sender.secret, encode(TRACK))}
        slow = asyncio.create_task(
            receiver.client.post(f"/subscriptions/acme-crm/{sender.key}", content=slowly(), headers=headers)
        )
        await arriving.wait()
        refused = await sender.send({**TRACK, "messageId": "signed"})
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
        assert (await receiver.deliver({**TRACK, "messageId": "plain"})).status_code == 503
        let_go.set()
        assert (await slow).status_code == 202
        assert (await sender.send({**TRACK, "messageId": "signed"})).status_code == 202
        assert (await receiver.deliver({**TRACK, "messageId": "plain"})).status_code == 202
