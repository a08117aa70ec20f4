"""Signed deliveries of the Webhooks destinations (contract 5.12), against real stores."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enable_with_segment import Setting
from enable_with_segment.subscriptions.receiving.signature import sign, signed_text
from tests.subscriptions.answers import message
from tests.subscriptions.receiver import Open, Receiver, Recorder, basic
from tests.subscriptions.signed_sender import TRACK, Sender, encode


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
    await sender.receiver.dispatcher.run_due()
    by_type = {event.type: event for event in recorder.events}
    assert by_type["identify"].traits["name"] == "Zoë"
    assert by_type["track"].event == "Ünlü"


async def test_wh_22_a_batch_that_is_signed_as_a_whole_is_accepted(sender: Sender) -> None:
    body = encode([TRACK, {**TRACK, "messageId": "m-0002"}])
    assert (await sender.send(body, signature=sign(sender.secret, body))).status_code == 202
    large = encode([{**TRACK, "messageId": f"l-{number}", "pad": "x" * 500_000} for number in range(4)])
    assert (await sender.send(large, signature=sign(sender.secret, large))).status_code == 202
    for wrong in (sign(sender.secret, body[:-1]), sign("another secret", body), sign(sender.secret, b"")):
        assert (await sender.send(body, signature=wrong)).status_code == 401
    assert len(await sender.receiver.records()) == 6


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


async def test_an_event_without_message_id_is_deduplicated_by_its_body(sender: Sender) -> None:
    event = {"type": "track", "event": "Ticket Closed", "userId": "u-881"}
    assert (await sender.send(event)).status_code == 202
    assert (await sender.send([event])).status_code == 202
    assert (await sender.receiver.only()).duplicates == 1


async def test_a_required_setting_can_come_from_a_header_of_the_mapping(on_sqlite: Open) -> None:
    strict = Recorder(settings=[Setting("listId", type=int, required=True)])
    async with on_sqlite(strict.subscription) as receiver:
        sender = Sender(receiver, *await receiver.mint_signed())
        assert (await sender.send(TRACK)).status_code == 400
        assert (await sender.send(TRACK, headers={"X-Segment-Settings": '{"listId":7}'})).status_code == 202
        await receiver.dispatcher.run_due()
    assert strict.settings == [{"listId": 7}]


async def test_case_121_keys_and_secrets_are_not_stored_in_clear(sender: Sender, tmp_path: Path) -> None:
    stored = (tmp_path / "control.db").read_bytes()
    assert sender.key.encode() not in stored
    assert sender.secret.encode() not in stored
