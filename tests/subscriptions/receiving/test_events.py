"""Contract cases 78-91 and 97-101: what may stand in an event, and what a handler sees of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from enable_with_segment import Event
from enable_with_segment.db.event_log.states import EventState
from tests.subscriptions.receiver import Open, Receiver, Recorder

ANONYMOUS = "8b6f2f0e-30a1-4d3b-8a4e-0f7f6cf0c9ab"

ONE_OF_EACH: dict[str, dict[str, Any]] = {
    "identify": {"userId": "cust_20418", "traits": {"email": "k.huber@mail.example"}},
    "track": {"userId": "cust_20418", "event": "Product Added", "properties": {"price": 12.5}},
    "page": {"anonymousId": ANONYMOUS, "userId": None, "name": "Pricing", "category": None, "properties": {}},
    "screen": {"userId": "cust_20418", "name": "Order Detail", "properties": {"order_id": "o-551"}},
    "group": {"userId": "cust_20418", "groupId": "acct_77", "traits": {"name": "Huber OG", "seats used": 5}},
    "alias": {"userId": "cust_20418", "previousId": ANONYMOUS},
}

SUITE: list[dict[str, Any]] = [
    {"type": "page", "anonymousId": "a-1", "name": "Home", "properties": {"url": "https://acme.example"}},
    {"type": "page", "anonymousId": "a-1", "name": "Signup", "properties": {"url": "https://acme.example/signup"}},
    {
        "type": "identify",
        "anonymousId": "a-1",
        "userId": "u-1",
        "traits": {"email": "p@mail.example", "first_name": "P"},
    },
    {"type": "track", "anonymousId": "a-1", "userId": "u-1", "event": "Signed up", "properties": {"referrer": "x"}},
    {"type": "group", "anonymousId": "a-1", "userId": "u-1", "groupId": "myUsers", "traits": {"total billed": 830}},
    {
        "type": "track",
        "anonymousId": "a-1",
        "userId": "u-1",
        "event": "Integration Enabled",
        "properties": {"name": "A"},
    },
    {"type": "track", "anonymousId": "a-1", "userId": "u-1", "event": "Invited Teammate", "properties": {"email": "q"}},
    {"type": "screen", "anonymousId": "a-1", "userId": "u-1", "name": "Home", "properties": {"variation": "blue"}},
]


async def handled(receiver: Receiver, recorder: Recorder, payload: dict[str, Any]) -> Event:
    """Deliver an event and return what its handler saw."""
    assert (await receiver.deliver(payload)).status_code == 202
    await receiver.dispatcher.run_due()
    return recorder.events[-1]


@pytest.mark.parametrize("event_type", ONE_OF_EACH)
async def test_case_078_every_type_reaches_its_handler(
    stored_receiver: Receiver, recorder: Recorder, event_type: str
) -> None:
    payload = {"type": event_type, "messageId": f"m-{event_type}", **ONE_OF_EACH[event_type]}
    event = await handled(stored_receiver, recorder, payload)
    assert event.type == event_type
    assert event.raw == payload
    record = await stored_receiver.only()
    assert record.state is EventState.HANDLED
    (detail,) = await stored_receiver.log.show(f"m-{event_type}")
    assert [outcome.handler for outcome in detail.handlers] == [f"record ({event_type})"]


@pytest.mark.parametrize("event_type", ["foo", "batch", "identify2", "\u0000", "delete"])
async def test_case_079_an_unsupported_type_is_501(on_sqlite: Open, event_type: str) -> None:
    recorder = Recorder(types=("identify",))
    async with on_sqlite(recorder.subscription) as receiver:
        response = await receiver.deliver({"type": event_type, "userId": "u"})
        assert response.status_code == 501
        assert "not supported" in response.json()["message"]
        assert await receiver.records() == []


async def test_case_080_no_type_is_400_and_action_is_a_fallback(receiver: Receiver, recorder: Recorder) -> None:
    for payload in ({"userId": "u"}, {"type": None, "userId": "u"}, {"type": {}, "userId": "u"}):
        response = await receiver.deliver(payload)
        assert response.status_code == 400
        assert "'type'" in response.json()["message"]
    event = await handled(receiver, recorder, {"action": "track", "event": "Email Opened", "user_id": "u-7"})
    assert (event.type, event.event, event.user_id) == ("track", "Email Opened", "u-7")


@pytest.mark.parametrize("name", [None, "", " ", {}, [404], True])
async def test_case_081_track_without_event_is_400(receiver: Receiver, name: object) -> None:
    response = await receiver.deliver({"type": "track", "userId": "u", "event": name})
    assert response.status_code == 400
    assert "'event'" in response.json()["message"]


@pytest.mark.parametrize(
    ("key", "name", "read"), [("event", 404, "404"), ("Event", "Paid", "Paid"), ("EVENT", 7.0, "7")]
)
async def test_a_name_is_read_as_leniently_as_ids(
    receiver: Receiver, recorder: Recorder, key: str, name: object, read: str
) -> None:
    event = await handled(receiver, recorder, {"type": "track", "userId": "u", key: name})
    assert (event.event, event.name) == (read, read)
    assert (await receiver.only()).event == read


@pytest.mark.parametrize(
    "ids", [{}, {"userId": None}, {"userId": "", "anonymousId": " "}, {"userId": [], "anonymousId": {}}]
)
async def test_case_082_neither_id_is_400(receiver: Receiver, ids: dict[str, object]) -> None:
    response = await receiver.deliver({"type": "identify", **ids})
    assert response.status_code == 400
    assert "anonymousId" in response.json()["message"]


@pytest.mark.parametrize("key", ["firstName", "first_name", "First Name", "FirstName", "first-name", "first.name"])
async def test_case_083_trait_keys_mean_the_same_in_every_style(
    receiver: Receiver, recorder: Recorder, key: str
) -> None:
    event = await handled(receiver, recorder, {"type": "identify", "userId": "u", "traits": {key: "Karin"}})
    assert event.traits["firstName"] == event.traits["first_name"] == event.traits.get("First Name") == "Karin"


@pytest.mark.parametrize("context", [{"context": None}, {"context": []}, {}], ids=["null", "list", "absent"])
async def test_case_084_context_may_be_null_a_list_or_absent(
    receiver: Receiver, recorder: Recorder, context: dict[str, object]
) -> None:
    event = await handled(receiver, recorder, {"type": "identify", "userId": "u", "integrations": [], **context})
    assert dict(event.context) == {}
    assert event.context.fields("page").text("url") is None
    assert dict(event.integrations) == {}


@pytest.mark.parametrize("version", [{"version": 2}, {"version": "1.1"}, {}])
async def test_case_085_version_may_be_anything(
    receiver: Receiver, recorder: Recorder, version: dict[str, object]
) -> None:
    assert (await handled(receiver, recorder, {"type": "identify", "userId": "u", **version})).user_id == "u"


async def test_case_086_without_message_id_the_body_is_what_counts(
    stored_receiver: Receiver, recorder: Recorder
) -> None:
    first = {"type": "identify", "userId": "u", "traits": {"a": 1, "b": 2}, "sentAt": "2026-03-02T12:00:00Z"}
    same = {"traits": {"b": 2, "a": 1}, "userId": "u", "type": "identify", "receivedAt": "2026-03-02T12:00:09Z"}
    other = {**first, "traits": {"a": 1, "b": 3}}
    for payload in (first, same, other):
        assert (await stored_receiver.deliver(payload)).status_code == 202
    await stored_receiver.dispatcher.run_due()
    assert len(recorder.events) == 2
    assert [record.duplicates for record in await stored_receiver.records()] == [1, 0]


async def test_case_087_the_same_message_id_has_one_effect(stored_receiver: Receiver, recorder: Recorder) -> None:
    payload = {"type": "identify", "userId": "u", "messageId": "m-1"}
    for body in (payload, payload, {**payload, "traits": {"changed": True}}):
        assert (await stored_receiver.deliver(body)).status_code == 202
        await stored_receiver.dispatcher.run_due()
    assert len(recorder.events) == 1
    record = await stored_receiver.only()
    assert (record.duplicates, record.differing_duplicates) == (2, 1)


async def test_case_088_the_same_message_id_of_two_accounts_has_two_effects(
    stored_receiver: Receiver, recorder: Recorder
) -> None:
    other = await stored_receiver.mint("globex")
    payload = {"type": "identify", "userId": "u", "messageId": "m-1"}
    assert (await stored_receiver.deliver(payload)).status_code == 202
    assert (await stored_receiver.deliver(payload, key=other)).status_code == 202
    await stored_receiver.dispatcher.run_due()
    assert sorted(install.account for install in recorder.installs) == ["acme", "globex"]


@pytest.mark.parametrize(
    "timestamp",
    [
        "2025-03-02T10:15:42.389Z",
        "2025-03-02T11:15:42.389+01:00",
        "2025-03-02T10:15:42.389",
        "2025-03-02T10:15:42.389000123Z",
    ],
)
async def test_case_089_the_event_time_is_its_timestamp(receiver: Receiver, recorder: Recorder, timestamp: str) -> None:
    payload = {
        "type": "identify",
        "userId": "u",
        "timestamp": timestamp,
        "originalTimestamp": "1999-01-01T00:00:00Z",
        "receivedAt": "2026-01-01T00:00:00Z",
    }
    event = await handled(receiver, recorder, payload)
    assert event.timestamp == datetime(2025, 3, 2, 10, 15, 42, 389_000, UTC)
    assert (await receiver.only()).occurred_at == event.timestamp
    whole = await handled(receiver, recorder, {**payload, "timestamp": "2025-03-02T10:15:42Z"})
    assert whole.timestamp == datetime(2025, 3, 2, 10, 15, 42, tzinfo=UTC)


async def test_case_090_old_and_future_times_are_stored(stored_receiver: Receiver, recorder: Recorder) -> None:
    for years in (-5, 1):
        at = stored_receiver.clock() + timedelta(days=365 * years)
        payload = {"type": "identify", "userId": "u", "timestamp": at.isoformat()}
        assert (await handled(stored_receiver, recorder, payload)).timestamp == at
    assert len(await stored_receiver.records(state=EventState.HANDLED)) == 2


@pytest.mark.parametrize("timestamp", ["yesterday", "", 1740910542, None, [], "9" * 400, "9999-12-31T23:59:59-23:59"])
async def test_case_091_an_unreadable_timestamp_falls_back(
    receiver: Receiver, recorder: Recorder, timestamp: object
) -> None:
    payload = {"type": "identify", "userId": "u", "timestamp": timestamp, "receivedAt": "2025-01-01T00:00:00Z"}
    assert (await handled(receiver, recorder, payload)).timestamp == datetime(2025, 1, 1, tzinfo=UTC)
    neither = {"type": "page", "userId": "u", "timestamp": timestamp}
    assert (await handled(receiver, recorder, neither)).timestamp == receiver.clock()


async def test_case_097_unicode_and_large_and_deep_events_survive(
    stored_receiver: Receiver, recorder: Recorder
) -> None:
    deep: Any = "bottom"
    for _ in range(150):
        deep = {"next": deep}
    payload = {
        "type": "identify",
        "userId": "ünïcødé-用户-🦊\x00",
        "messageId": "m-\x00-1",
        "traits": {"text": "Zoë 👩‍👩‍👧 \x00 end", "large": "x" * 32_000, "deep": deep, "big": 2**70},
    }
    body = json.dumps(payload).encode()  # escapes everything, surrogate pairs included
    assert b"\\ud83e\\udd8a" in body
    assert (await stored_receiver.deliver(body)).status_code == 202
    await stored_receiver.dispatcher.run_due()
    assert recorder.events[0].raw == payload
    plain = json.dumps({**payload, "messageId": "m-2"}, ensure_ascii=False).encode()
    assert (await stored_receiver.deliver(plain)).status_code == 202
    await stored_receiver.dispatcher.run_due()
    assert recorder.events[1].raw["traits"] == payload["traits"]
    (detail,) = await stored_receiver.log.show("m-2")
    assert detail.body == plain


@pytest.mark.parametrize(("sent", "text"), [(20418, "20418"), (12.0, "12"), (1.5, "1.5"), (2**63, str(2**63))])
async def test_case_098_a_numeric_user_id_becomes_text(
    receiver: Receiver, recorder: Recorder, sent: float, text: str
) -> None:
    assert (await handled(receiver, recorder, {"type": "identify", "userId": sent})).user_id == text


async def test_case_099_the_test_event_of_the_developer_center_is_accepted(
    receiver: Receiver, recorder: Recorder
) -> None:
    payload = {
        "type": "track",
        "event": "Test Event Name",
        "userId": "test-user-4f2a",
        "messageId": "test-message-4f2a",
        "projectId": "kP3nZr8TqW",
        "timestamp": "2026-03-02T11:00:00.000Z",
        "email": "someone@mail.example",
        "properties": {"property1": 1, "property2": "test"},
    }
    event = await handled(receiver, recorder, payload)
    assert event["email"] == "someone@mail.example"
    assert event.get("no such field") is None


async def test_case_100_the_test_suite_passes_twice_in_a_row(stored_receiver: Receiver, recorder: Recorder) -> None:
    for _ in range(2):
        for payload in SUITE:
            response = await stored_receiver.deliver({**payload, "timestamp": "2015-04-28T18:00:00Z"})
            assert response.status_code in (200, 202, 501)
        await stored_receiver.dispatcher.run_due()
    assert len(recorder.events) == len(SUITE)


async def test_case_101_a_replay_is_recognised_and_has_no_second_effect(
    stored_receiver: Receiver, recorder: Recorder
) -> None:
    live: list[dict[str, object]] = [
        {"type": "track", "userId": "u", "event": f"Step {number}", "messageId": f"m-{number}", "integrations": {}}
        for number in range(5)
    ]
    for payload in live:
        await stored_receiver.deliver(payload)
    await stored_receiver.dispatcher.run_due()
    missed: dict[str, object] = {"type": "track", "userId": "u", "event": "Missed", "messageId": "m-missed"}
    for archived in [missed, *reversed(live)]:
        replayed = {**archived, "integrations": {"All": False, "Acme CRM": True}}
        assert (await stored_receiver.deliver(replayed)).status_code == 202
    await stored_receiver.dispatcher.run_due()
    assert [event.event for event in recorder.events] == [*(f"Step {number}" for number in range(5)), "Missed"]
    assert [event.is_replay for event in recorder.events] == [False] * 5 + [True]
    assert {record.duplicates for record in await stored_receiver.records()} == {0, 1}


def test_the_alias_of_old_examples_is_understood() -> None:
    event = Event({"action": "alias", "Previous ID": "old", "User ID": 7})
    assert (event.type, event.previous_id, event.user_id) == ("alias", "old", "7")
    assert Event({"type": "alias", "userId": "u", "anonymousId": "a"}).previous_id == "a"
    assert Event({"type": "identify", "userId": "u", "anonymousId": "a"}).previous_id is None


def test_names_groups_and_traits_are_found_where_the_spec_puts_them() -> None:
    event = Event({"type": "track", "event": "Signed Up", "context": {"groupId": 77, "traits": {"e-mail": "k@x"}}})
    assert (event.name, event.group_id, event.traits["email"]) == ("Signed Up", "77", "k@x")
    page = Event({"type": "page", "category": None, "properties": {"name": "Home"}})
    assert (page.name, page.category, page.event) == ("Home", None, None)
    delete = Event({"type": "delete", "userId": "u", "originalTimestamp": "2025-04-09 21:02:11.48 +0000 UTC m=+5.1"})
    assert delete.original_timestamp is None
    assert repr(delete) == "Event(type='delete', message_id=None)"
