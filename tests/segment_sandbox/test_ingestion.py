from __future__ import annotations

import asyncio
import gzip
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segment.analytics.client import Client

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox.jsontext import InvalidJson, encode, parse_object
from enable_with_segment.segment_sandbox.tracking.events import (
    Arrival,
    DroppedEvent,
    check,
    complete,
    corrected_time,
    parse_time,
)
from enable_with_segment.segment_sandbox.tracking.ingestion import MalformedGzip, unpack
from tests.segment_sandbox.customer import MOBILE, WEB, Customer

TRACK = {"event": "Signed Up", "userId": "cust_20418", "properties": {"plan": "team"}}


def accepted(customer: Customer) -> list[dict[str, object]]:
    return [archived.event for archived in customer.sandbox.ingestion.archive]


def drop_codes(customer: Customer) -> list[str]:
    return [drop.code for drop in customer.sandbox.ingestion.drops]


@pytest.mark.parametrize(
    ("kind", "event"),
    [
        ("identify", {"userId": "u", "traits": {"email": "a@b.example"}}),
        ("track", {"anonymousId": "a", "event": "Signed Up"}),
        ("page", {"userId": "u", "name": "Home", "category": None}),
        ("screen", {"userId": "u", "name": "Home"}),
        ("group", {"userId": "u", "groupId": "g"}),
        ("alias", {"userId": "u", "previousId": "a"}),
    ],
)
async def test_behaviour_038_a_route_for_each_type(customer: Customer, kind: str, event: dict[str, object]) -> None:
    answer = await customer.send(kind, event)
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert [taken["type"] for taken in accepted(customer)] == [kind]


async def test_behaviour_038_ways_to_authenticate(customer: Customer) -> None:
    write_key = customer.write_key()
    await customer.http.post("/v1/track", json={**TRACK, "writeKey": write_key})
    await customer.http.post(
        "/v1/track", json={**TRACK, "writeKey": write_key}, headers={"Authorization": "Bearer customer-token"}
    )
    await customer.http.put("/v1/track", json=TRACK, auth=(write_key, ""))
    assert len(accepted(customer)) == 3
    assert not any("writeKey" in event for event in accepted(customer))


async def test_behaviour_038_paths_are_case_insensitive_and_may_end_in_a_slash(customer: Customer) -> None:
    for path in ("/v1/Track", "/V1/TRACK", "/v1/track/", "/v1/t"):
        assert (await customer.http.post(path, json=TRACK, auth=(customer.write_key(), ""))).status_code == 200
    assert [event["channel"] for event in accepted(customer)] == ["server", "server", "server", "client"]
    assert (await customer.http.post("/v1/nothing", json=TRACK)).status_code == 404


async def test_behaviour_038_gzip(customer: Customer) -> None:
    headers = {"Content-Encoding": "gzip"}
    packed = gzip.compress(json.dumps({"batch": [{"type": "track", **TRACK}]}).encode())
    auth = (customer.write_key(), "")
    assert (await customer.http.post("/v1/batch", content=packed, headers=headers, auth=auth)).status_code == 200
    assert len(accepted(customer)) == 1
    for broken in (b"not gzip", packed[:-9]):
        answer = await customer.http.post("/v1/batch", content=broken, headers=headers, auth=auth)
        assert answer.status_code == 400
        assert answer.json() == {"success": False, "message": "Malformed gzip content"}


async def test_behaviour_038_cors_and_health(customer: Customer) -> None:
    preflight = await customer.http.options("/v1/batch")
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-max-age"] == "604800"
    assert (await customer.send("track", TRACK)).headers["access-control-allow-origin"] == "*"
    assert (await customer.http.get("/internal/health")).content == b""


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"type": "track", "event": "E"}, "no_user_anon_id"),
        ({"type": "track", "userId": 7, "event": "E"}, "id_not_string"),
        ({"type": "track", "userId": "u"}, "event_not_defined"),
        ({"type": "track", "userId": "u", "event": ""}, "event_not_defined"),
        ({"type": "track", "userId": "u", "event": 7}, "event_not_string"),
        ({"type": "track", "userId": "u", "event": "E", "properties": []}, "properties_not_object"),
        ({"type": "identify", "userId": "u", "traits": "t"}, "traits_not_object"),
        ({"type": "page", "userId": "u", "name": 7}, "name_not_string"),
        ({"type": "screen", "userId": "u", "category": 7}, "category_not_string"),
        ({"type": "group", "userId": "u"}, "id_required"),
        ({"type": "alias", "userId": "u"}, "id_required"),
        ({"type": "dance", "userId": "u"}, "bad_request"),
        ({"userId": "u"}, "bad_request"),
        ("text", "bad_request"),
    ],
)
async def test_behaviour_039_bad_items_are_dropped_with_a_code(customer: Customer, event: object, code: str) -> None:
    answer = await customer.send("batch", {"batch": [event, {"type": "track", **TRACK}]})
    assert answer.status_code == 200
    assert drop_codes(customer) == [code]
    assert len(accepted(customer)) == 1, "the good item passes"


async def test_behaviour_039_unknown_write_key_and_empty_batch(customer: Customer) -> None:
    unknown = await customer.http.post("/v1/track", json=TRACK, auth=("nobody", ""))
    assert (unknown.status_code, unknown.json()) == (200, {"success": True})
    assert (await customer.send("batch", {"batch": []})).status_code == 200
    assert drop_codes(customer) == ["unknown_source", "empty_batch"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff", b'{"a": NaN}', b'{"a": 1e999}', b"[" * 100_000])
async def test_behaviour_039_bodies_that_are_not_an_object_are_refused(customer: Customer, body: bytes) -> None:
    answer = await customer.http.post("/v1/track", content=body, auth=(customer.write_key(), ""))
    assert (answer.status_code, answer.text) == (400, "Bad Request\n")


async def test_behaviour_040_sizes(customer: Customer) -> None:
    large = {**TRACK, "properties": {"text": "x" * 32 * 1024}}
    assert (await customer.send("track", large)).status_code == 400
    assert (await customer.send("batch", {"batch": [{"type": "track", **large}]})).status_code == 200
    assert drop_codes(customer) == ["bad_request"]
    too_many = {"batch": [{"type": "track", "userId": "u", "event": "E"}] * 2501}
    assert (await customer.send("batch", too_many)).status_code == 200
    assert drop_codes(customer) == ["bad_request"] * 2
    assert (await customer.send("batch", {"batch": [], "padding": "x" * 500 * 1024})).status_code == 400
    assert accepted(customer) == []


async def test_behaviour_040_overloaded(customer: Customer) -> None:
    await customer.control("switches", {"ingestion_overloaded": True})
    refused = await customer.send("track", TRACK)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == refused.headers["x-ratelimit-reset"] == "1"


async def test_behaviour_041_message_ids_and_dedupe(customer: Customer) -> None:
    await customer.send("track", TRACK)
    assert str(accepted(customer)[0]["messageId"]).startswith("api-")
    named = {**TRACK, "messageId": "m-1"}
    await customer.send("track", named)
    await customer.send("track", named)
    await customer.send("track", named, MOBILE)
    assert drop_codes(customer) == ["duplicate", "duplicate"], "the window is global by default"
    await customer.control("switches", {"ingestion_dedupe": "per_source"})
    await customer.send("track", {**TRACK, "messageId": "m-2"})
    await customer.send("track", {**TRACK, "messageId": "m-2"}, MOBILE)
    assert len(drop_codes(customer)) == 2
    await customer.control("clock", {"advance_seconds": 24 * 3600})
    await customer.send("track", {**TRACK, "messageId": "m-2"})
    assert len(drop_codes(customer)) == 2, "after 24 hours an id may come again"


async def test_behaviour_042_what_the_server_adds(customer: Customer) -> None:
    now = customer.sandbox.state.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
    await customer.send("track", {**TRACK, "context": {"direct": True}})
    event = accepted(customer)[0]
    source = customer.sandbox.state.world.sources[WEB]
    assert event["receivedAt"] == event["timestamp"] == event["originalTimestamp"] == now
    assert (event["channel"], event["projectId"], event["version"]) == ("server", source.project_id, 2)
    assert event["context"] == {"ip": "127.0.0.1"}
    await customer.send("track", TRACK)
    assert accepted(customer)[1]["context"] == {}, "a server's address says nothing about the user"


def test_behaviour_042_the_contracts_timestamp_vector() -> None:
    def at(time: str) -> datetime:
        return datetime.fromisoformat(f"2026-03-01T{time}+00:00")

    assert corrected_time(at("10:00:05.000"), at("12:00:04.900"), at("12:00:01.900")) == at("10:00:02.000")
    assert corrected_time(at("10:00:05.000"), None, at("09:00:00.000")) == at("09:00:00.000")
    assert corrected_time(at("10:00:05.000"), at("12:00:04.900"), None) == at("10:00:05.000")


async def test_behaviour_042_a_given_timestamp_becomes_the_original(customer: Customer) -> None:
    await customer.send("track", {**TRACK, "timestamp": "2020-01-01T00:00:00+01:00"})
    event = accepted(customer)[0]
    assert event["timestamp"] == event["originalTimestamp"] == "2019-12-31T23:00:00.000Z"


async def test_behaviour_043_batch_context_is_merged_into_items(customer: Customer) -> None:
    batch = {
        "batch": [{"type": "track", **TRACK, "context": {"locale": "de-AT"}, "integrations": {"All": True}}],
        "context": {"locale": "en-US", "timezone": "Europe/Vienna"},
        "integrations": {"All": False, "Acme CRM": True},
    }
    await customer.send("import", batch)
    event = accepted(customer)[0]
    assert event["context"] == {"locale": "de-AT", "timezone": "Europe/Vienna"}
    assert event["integrations"] == {"All": True, "Acme CRM": True}


async def test_behaviour_045_suppressed_users_are_blocked(customer: Customer) -> None:
    await customer.control("delete", {"workspace": "workspaces/northwind", "user_id": "cust_20418", "suppress": True})
    assert (await customer.send("track", TRACK)).status_code == 200
    assert accepted(customer) == []
    assert drop_codes(customer) == ["suppressed"]


async def test_the_official_sender(delivering: Customer) -> None:
    """Segment's own library sends over a real socket, in batches and gzipped."""
    errors: list[object] = []

    def send() -> None:
        client = Client(
            delivering.write_key(),
            host=str(delivering.http.base_url).rstrip("/"),
            gzip=True,
            on_error=lambda error, _: errors.append(error),
        )
        for number in range(25):
            client.track("cust_20418", "Item Bought", {"number": number})
        client.identify("cust_20418", {"email": "k@mail.example"})
        client.flush()
        client.join()

    await asyncio.to_thread(send)
    assert errors == []
    events = accepted(delivering)
    assert [event["type"] for event in events] == ["track"] * 25 + ["identify"]
    library = events[0]["context"]
    assert isinstance(library, dict)
    assert library["library"]["name"] == "analytics-python"
    idle = (await delivering.http.get("/_sandbox/idle")).json()
    assert (idle["idle"], idle["succeeded"]) == (True, 26)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        "type",
        "userId",
        "anonymousId",
        "groupId",
        "previousId",
        "event",
        "name",
        "category",
        "properties",
        "traits",
        "context",
        "integrations",
        "messageId",
        "timestamp",
        "originalTimestamp",
        "sentAt",
        "channel",
    ]
)
ARRIVAL = Arrival(datetime(2026, 3, 1, tzinfo=UTC), "project", "api-1")


@given(st.dictionaries(KEYS, JSON | st.sampled_from(["track", "page", "u-1", "2026-03-01T00:00:00Z"])))
def test_any_event_is_dropped_or_completed(event: dict[str, object]) -> None:
    try:
        check(event)
    except DroppedEvent:
        return
    completed = complete(event, {}, ARRIVAL)
    assert completed["projectId"] == "project"
    assert parse_time(completed["timestamp"]) is not None
    assert 0 < len(str(completed["messageId"])) <= 100
    assert json.loads(encode(completed)) == completed


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    for lenient in (False, True):
        try:
            assert isinstance(parse_object(body, lenient=lenient), dict)
        except InvalidJson:
            continue


@given(st.binary(max_size=2000))
def test_gzip_round_trip_and_truncation(body: bytes) -> None:
    packed = gzip.compress(body)
    assert unpack(packed, "GZIP") == body
    with pytest.raises(MalformedGzip):
        unpack(packed[:-1], "gzip")


def test_a_gzip_bomb_is_not_unpacked() -> None:
    assert len(unpack(gzip.compress(b"x" * 50_000_000), "gzip")) == 500 * 1024 + 1


def test_lone_surrogates_stay_json() -> None:
    assert json.loads(encode({"text": "\ud800"})) == {"text": "\ud800"}


async def test_events_that_are_not_unicode_can_be_delivered_and_shown(delivering: Customer) -> None:
    event = {"type": "track", "userId": "u", "event": "\ud800", "messageId": "m-1"}
    body = json.dumps({"batch": [event, {"type": "\ud800"}]})
    await delivering.http.post("/v1/batch", content=body, auth=(delivering.write_key(), ""))
    assert (await delivering.http.get("/_sandbox/idle")).json()["succeeded"] == 1
    for path in ("/_sandbox/deliveries", "/_sandbox/events", "/_sandbox/requests", "/_sandbox/state", "/"):
        assert (await delivering.http.get(path)).status_code == 200, path
    assert (await delivering.http.get("/_sandbox/deliveries")).json()["deliveries"][0]["body"]["event"] == "\ud800"


async def test_requests_to_unknown_paths(http: httpx.AsyncClient) -> None:
    assert (await http.get("/nothing")).status_code == 404
