"""Contract cases 63-68 and 74-76: who may deliver, and what every answer looks like."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn

from enable_with_segment import Event, Subscription
from enable_with_segment.db.control import accounts
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.http_client import httpx
from tests.subscriptions.answers import check_form, message
from tests.subscriptions.receiver import IDENTIFY, Open, Receiver, basic


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
    assert "API key" in message(response)
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
    message(response)
    assert await receiver.records() == []


async def test_case_066_unknown_and_revoked_keys_are_401_and_a_suspended_account_is_403(receiver: Receiver) -> None:
    unknown = await receiver.deliver(IDENTIFY, key="ews_unknown")
    assert unknown.status_code == 401
    assert "ews_unknown" not in message(unknown)

    key = await receiver.mint("revoked-inc")
    async with receiver.database.transaction() as session:
        await receiver.api_keys.revoke(session, receiver.extra_keys[key], actor="test")
    assert (await receiver.deliver(IDENTIFY, key=key)).status_code == 401

    key = await receiver.mint("suspended-inc")
    async with receiver.database.transaction() as session:
        await accounts.set_suspended(session, "suspended-inc", receiver.clock())
    suspended = await receiver.deliver(IDENTIFY, key=key)
    assert suspended.status_code == 403
    assert "suspended" in message(suspended)
    assert await receiver.records() == []


async def test_a_key_of_another_component_is_403(receiver: Receiver) -> None:
    key = await receiver.mint("acme", component="acme-mail")
    response = await receiver.deliver(IDENTIFY, key=key)
    assert response.status_code == 403
    message(response)


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


async def test_case_076_an_answer_does_not_wait_for_a_handler(on_sqlite: Open) -> None:
    started, let_go = asyncio.Event(), asyncio.Event()
    slow = Subscription("acme-crm")

    @slow.on("identify")
    async def hang(event: Event) -> None:
        started.set()
        await let_go.wait()

    async with on_sqlite(slow) as receiver:
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
