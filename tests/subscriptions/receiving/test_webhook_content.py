"""Contract cases 69-73: which bodies and settings are taken."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import AsyncIterator

import pytest

from enable_with_segment import Setting
from tests.subscriptions.answers import check_form, message
from tests.subscriptions.receiver import IDENTIFY, Open, Receiver, Recorder, basic


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
        b'{"type":"identify","userId":"u","x":' + b"9" * 5_000 + b"}",
        b'{"type":"identify","userId":"u","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b"[" * 500_000,
    ],
    ids=lambda body: body[:40].decode(errors="replace"),
)
async def test_case_070_a_body_that_cannot_be_read_is_400(receiver: Receiver, body: bytes) -> None:
    response = await receiver.deliver(body)
    assert response.status_code == 400
    assert "cannot be read" in message(response)
    assert (await receiver.deliver(IDENTIFY)).status_code == 202


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b'[{"type":"identify","userId":"u"}]'])
async def test_case_071_json_that_is_no_object_is_400(receiver: Receiver, body: bytes) -> None:
    response = await receiver.deliver(body)
    assert response.status_code == 400
    assert "one JSON object" in message(response)


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
    message(response)
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


async def test_case_073_a_required_setting_that_is_missing_or_invalid_is_400_naming_it(on_sqlite: Open) -> None:
    strict = Recorder(settings=[Setting("listId", type=int, required=True)])
    async with on_sqlite(strict.subscription) as receiver:
        for settings in (None, {}, {"listId": ""}, {"listId": "secret words"}):
            response = await receiver.deliver(IDENTIFY, settings=settings)
            assert response.status_code == 400
            assert "'listId'" in message(response)
            assert "secret words" not in message(response)
        assert (await receiver.deliver(IDENTIFY, settings={"list_id": "7"})).status_code == 202
        await receiver.dispatcher.run_due()
    assert strict.settings == [{"listId": 7}]
