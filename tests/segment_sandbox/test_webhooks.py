"""The sandbox's Webhooks destinations, and the service receiving from them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox import Sandbox, SandboxConfig
from enable_with_segment.segment_sandbox.config import ConfigError
from enable_with_segment.segment_sandbox.delivery.webhooks import WebhooksDestination, as_javascript, signature
from tests.listening import listening
from tests.segment_sandbox.customer import WEB, Customer
from tests.segment_sandbox.partner import Answer, Partner
from tests.subscriptions.receiver import Recorder, open_receiver

SECRET = "quiet-harbour-42"


@pytest.fixture
async def sending(config: SandboxConfig) -> AsyncIterator[Customer]:
    """A customer of a sandbox on a real socket."""
    sandbox = Sandbox(config)
    async with sandbox.listening() as base_url, httpx.AsyncClient(base_url=base_url) as client:
        yield Customer(sandbox, client)


def track(number: int, **fields: object) -> dict[str, object]:
    return {"type": "track", "event": "Ticket Closed", "userId": "u-881", "messageId": f"m-{number}", **fields}


async def add(customer: Customer, *urls: str, variant: str = "actions", **more: object) -> Mapping[str, object]:
    body = {"source": WEB, "variant": variant, "urls": list(urls), "shared_secret": SECRET, **more}
    return await customer.control("webhooks", body)


async def test_behaviour_057_a_single_event_is_signed_over_its_body(sending: Customer, partner: Partner) -> None:
    shown = await add(sending, partner.url)
    assert shown["shared_secret"] != SECRET
    await sending.send("track", track(1, properties={"total": 1.0, "name": "Zoë", "10": 1, "9": 2}))
    await sending.idle()
    (received,) = partner.received
    assert received.header("x-signature") == signature(SECRET, received.body)
    assert received.header("user-agent") == "Segment (Actions)"
    assert received.header("authorization") is None
    assert '"properties":{"9":2,"10":1,"total":1,"name":"Zoë"}'.encode() in received.body


async def test_behaviour_057_batches_up_to_their_size_signed_over_the_first_element(
    sending: Customer, partner: Partner
) -> None:
    await add(sending, partner.url, batch_size=3, method="PUT", headers={"User-Agent": "Acme", "X-Team": "crm"})
    await sending.send("batch", {"batch": [track(number) for number in range(7)]})
    await sending.idle()
    batches = [json.loads(received.body) for received in partner.received]
    assert sorted(len(batch) for batch in batches) == [1, 3, 3]
    for received in partner.received:
        first = json.dumps(json.loads(received.body)[0], separators=(",", ":")).encode()
        assert received.header("x-signature") == signature(SECRET, first)
        assert received.line.startswith("PUT ")
        assert received.header("user-agent") == "Acme"
        assert received.header("x-team") == "crm"


async def test_behaviour_057_classic_sends_to_every_url_and_one_success_counts(
    sending: Customer, partner: Partner
) -> None:
    partner.answers.extend([Answer(500), Answer(200)])
    await add(sending, partner.url, f"{partner.url}/second", variant="classic")
    await sending.send("track", track(1))
    await sending.idle()
    assert [received.line.split()[1] for received in partner.received] == [
        "/subscriptions/acme-crm",
        "/subscriptions/acme-crm/second",
    ]
    assert partner.received[0].header("user-agent") == "Segment.io/1.0"
    (delivery,) = await sending.deliveries()
    assert delivery["state"] == "succeeded"


async def test_behaviour_057_without_a_secret_there_is_no_signature_and_a_mapping_can_drop_fields(
    sending: Customer, partner: Partner
) -> None:
    await add(sending, partner.url, shared_secret="", fields=["event", "userId"])
    await sending.send("track", track(1))
    await sending.idle()
    assert partner.received[0].header("x-signature") is None
    assert partner.events == [{"event": "Ticket Closed", "userId": "u-881"}]


async def test_behaviour_059_a_deletion_reaches_classic_destinations_alone(sending: Customer, partner: Partner) -> None:
    await add(sending, partner.url, variant="classic")
    await add(sending, f"{partner.url}/actions", variant="actions")
    regulation = await sending.control("delete", {"workspace": "workspaces/northwind", "user_id": "u-881"})
    await sending.idle()
    assert [event["type"] for event in partner.events] == ["delete"]
    assert regulation["destinations"]
    assert [received.line.split()[1] for received in partner.received] == ["/subscriptions/acme-crm"]


@pytest.mark.parametrize(
    "changes",
    [
        {"urls": ()},
        {"urls": ("a",)},
        {"urls": ("https://a.example",) * 2},
        {"method": "DELETE"},
        {"variant": "classic", "method": "PUT"},
        {"batch_size": 4_001},
        {"headers": {"X-Name": "ë"}},
    ],
)
def test_what_the_forms_would_not_take_is_refused(changes: dict[str, object]) -> None:
    settings = {"slug": "w", "source": WEB, "variant": "actions", "urls": ("https://a.example",), **changes}
    with pytest.raises(ConfigError):
        WebhooksDestination(**settings)  # type: ignore[arg-type]


def test_numbers_and_keys_are_written_as_javascript_does() -> None:
    value = {"b": 1.0, "2": [1.5, 1e3, -0.5], "a": {"1": True, "0": None}, "01": 1e300}
    assert json.dumps(as_javascript(value)) == (
        '{"2": [1.5, 1000, -0.5], "b": 1, "a": {"0": null, "1": true}, "01": 1e+300}'
    )


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_cases_108_110_111_from_segment_to_the_handler(
    sending: Customer, tmp_path: Path, encryption: EncryptionKeys, method: str
) -> None:
    """The whole way: ingestion, a signed batch over a real socket, the event log, the handler."""
    recorder = Recorder()
    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    async with open_receiver(url, encryption, recorder.subscription) as receiver:
        key, secret = await receiver.mint_signed("acct_42")
        app = receiver.client._transport.app  # type: ignore[attr-defined]
        async with listening(app) as port:
            address = f"http://127.0.0.1:{port}/subscriptions/acme-crm/{key}"
            await add(sending, address, shared_secret=secret, batch_size=100, method=method)
            await add(sending, address, shared_secret=secret, variant="classic")
            batch = [track(number, properties={"name": "Zoë 🎈", "score": 1.0}) for number in range(30)]
            await sending.send("batch", {"batch": batch})
            await sending.send("batch", {"batch": [{**track(99), "event": "Über / \\ 'quoted' \u2028"}]})
            await sending.idle()
            await add(sending, address, shared_secret="another secret", variant="actions", slug="wrong")
            await sending.send("track", track(100))
            await sending.idle()
        found = await receiver.records()
        assert sorted(str(record.message_id) for record in found) == sorted(f"m-{n}" for n in [*range(30), 99, 100])
        assert {record.account for record in found} == {"acct_42"}
        assert all(record.duplicates == 1 for record in found)  # both destinations of the source sent each
        await receiver.dispatcher.run_due()
        assert {record.state for record in await receiver.records()} == {EventState.HANDLED}
        assert {event.event for event in recorder.events} == {"Ticket Closed", "Über / \\ 'quoted' \u2028"}
    codes = {str(delivery["code"]) for delivery in await sending.deliveries()}
    assert codes == {"delivered", "errors.discarded.401"}
