"""Whatever is sent, the answer is a documented status with a JSON message, and the next delivery works."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enable_with_segment import Setting
from enable_with_segment.components.event import EVENT_TYPES
from enable_with_segment.db.identifiers import new_id
from tests.subscriptions.receiver import Receiver, Recorder, basic

EXAMPLES = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
DOCUMENTED = {202, 400, 401, 403, 404, 405, 413, 415, 501}

any_text = st.text(st.characters(codec=None), max_size=20)  # NUL and lone surrogates included
scalars = st.none() | st.booleans() | st.integers() | st.integers(min_value=10**300) | st.floats() | any_text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4), max_leaves=12
)
FIELDS = (
    *("userId", "anonymousId", "event", "messageId", "timestamp", "receivedAt", "traits", "properties", "context"),
    *("integrations", "previousId", "groupId", "action", "user_id", "version", "name", "category"),
)
event_like = st.fixed_dictionaries(
    {"type": st.sampled_from(EVENT_TYPES) | values}, optional=dict.fromkeys(FIELDS, values)
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Bytes from sensible to senseless: events, other JSON, cut off, doubled keys, deep, or in a wrong encoding."""
    payload = draw(event_like | values)
    body = json.dumps(payload, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    match draw(st.integers(0, 7)):
        case 0:
            return body[: draw(st.integers(0, len(body)))]
        case 1:
            return draw(st.binary(max_size=60))
        case 2:
            return b'{"type":"identify","userId":"u","userId":' + body + b"}"
        case 3:
            depth = draw(st.integers(1, 3_000))
            return b'{"type":"identify","userId":"u","traits":' + b'{"a":' * depth + body + b"}" * depth + b"}"
        case 4:
            return json.dumps(payload).encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "cp037"])))
        case 5:
            position = draw(st.integers(0, len(body)))
            return body[:position] + draw(st.binary(min_size=1, max_size=3)) + body[position:]
        case _:
            return body


header_values = st.binary(max_size=40) | st.sampled_from(
    [b"gzip", b"identity", b"br", b"application/json", b"text/plain", b"-1", b"9" * 30, b"Basic", b"{}"]
)
header_names = st.sampled_from(
    [b"content-type", b"content-encoding", b"content-length", b"x-segment-settings", b"authorization", b"x-other"]
)
headers = st.lists(st.tuples(header_names, header_values), max_size=4)
setting_names = any_text | st.sampled_from(
    ["strSetting", "bool_setting", "intSetting", "Float Setting", "listSetting", "dictSetting", "choice"]
)


async def call(
    receiver: Receiver,
    chunks: Sequence[bytes],
    headers: Sequence[tuple[bytes, bytes]],
    *,
    method: str = "POST",
    path: str = "/acme-crm",
) -> int:
    """Call the webhook as a server does, check the answer's form, and return its status."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    waiting = iter([*messages, {"type": "http.request", "body": b"", "more_body": False}])
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return next(waiting)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": list(headers)}
    await receiver.webhook(scope, receive, send)
    start, body = sent
    answered = dict(start["headers"])
    status: int = start["status"]
    assert int(answered[b"content-length"]) == len(body["body"])
    if status != 202:  # which has no body
        assert answered[b"content-type"] == b"application/json"
        assert isinstance(json.loads(body["body"])["message"], str)
    return status


def key_header(receiver: Receiver) -> tuple[bytes, bytes]:
    return (b"authorization", basic(receiver.key).encode())


@EXAMPLES
@given(body=bodies(), cuts=st.lists(st.integers(0, 200), max_size=5), packed=st.booleans())
async def test_any_body_gets_a_documented_answer(
    receiver: Receiver, body: bytes, cuts: list[int], packed: bool
) -> None:
    encoding = [(b"content-encoding", b"gzip")] if packed else []
    sent = gzip.compress(body) if packed else body
    edges = [0, *sorted(cuts), max(len(sent), *cuts, 0)]
    chunks = [sent[start:end] for start, end in itertools.pairwise(edges)]
    status = await call(receiver, chunks, [key_header(receiver), *encoding])
    assert status in DOCUMENTED
    await receiver.dispatcher.run_due()


@EXAMPLES
@given(extra=headers, with_key=st.booleans(), method=st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "TRACE"]))
async def test_any_headers_get_a_documented_answer(
    receiver: Receiver, extra: list[tuple[bytes, bytes]], with_key: bool, method: str
) -> None:
    sent = [key_header(receiver), *extra] if with_key else extra
    assert await call(receiver, [b'{"type":"identify","userId":"u"}'], sent, method=method) in DOCUMENTED


@EXAMPLES
@given(path=st.text(max_size=20), credentials=st.binary(max_size=80))
async def test_any_path_and_credentials_get_a_documented_answer(
    receiver: Receiver, path: str, credentials: bytes
) -> None:
    header = (b"authorization", b"Basic " + base64.b64encode(credentials))
    expected = 401 if path.strip("/") == "acme-crm" else 404
    assert await call(receiver, [b"{}"], [header], path=f"/{path}") == expected
    assert await call(receiver, [b"{}"], [header]) == 401


@pytest.fixture
def recorder() -> Recorder:
    """A component with a setting of every type."""
    kinds: list[type] = [str, bool, int, float, list, dict]
    every_type = [Setting(f"{kind.__name__}Setting", type=kind) for kind in kinds]
    return Recorder(settings=[*every_type, Setting("choice", choices=["a", "b"], default="a")])


@EXAMPLES
@given(
    received=st.dictionaries(setting_names, values, max_size=5),
    form=st.sampled_from(["base64", "url-safe", "plain", "cut"]),
)
async def test_any_settings_are_accepted_and_handlers_get_the_declared_types(
    receiver: Receiver, recorder: Recorder, received: dict[str, Any], form: str
) -> None:
    text = json.dumps(received).encode()
    encoded = {
        "base64": base64.b64encode(text),
        "url-safe": base64.urlsafe_b64encode(text).rstrip(b"="),
        "plain": text,
        "cut": base64.b64encode(text)[1:],
    }[form]
    recorder.settings.clear()
    event = json.dumps(
        {"type": "identify", "userId": "u", "traits": {"settings": repr(received), "form": form}}
    ).encode()
    assert await call(receiver, [event], [key_header(receiver), (b"x-segment-settings", encoded)]) == 202
    await receiver.dispatcher.run_due()
    for seen in recorder.settings:
        assert seen["choice"] in ("a", "b")
        for name in ("str", "bool", "int", "float", "list", "dict"):
            value = seen[f"{name}Setting"]
            assert value is None or type(value).__name__ == name


usable_text = st.text(max_size=20)
usable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | usable_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(usable_text, inner, max_size=4),
    max_leaves=12,
)
usable_events = st.fixed_dictionaries(
    {
        "type": st.sampled_from([kind for kind in EVENT_TYPES if kind != "delete"]),
        "userId": st.integers() | usable_text.map(lambda text: f"u{text}"),
        "event": usable_text.map(lambda text: f"e{text}"),
    },
    optional=dict.fromkeys([name for name in FIELDS if name not in ("userId", "event")], usable),
)


@settings(EXAMPLES, max_examples=100)
@given(payload=usable_events)
async def test_what_is_usable_is_accepted_and_reaches_the_handler_unchanged_on_both_engines(
    stored_receiver: Receiver, recorder: Recorder, payload: dict[str, Any]
) -> None:
    recorder.events.clear()
    payload = {**payload, "messageId": new_id("msg")}  # Hypothesis repeats itself, and duplicates have no effect
    body = json.dumps(payload).encode()
    assert await call(stored_receiver, [body], [key_header(stored_receiver)]) == 202
    await stored_receiver.dispatcher.run_due()
    assert [event.raw for event in recorder.events] == [payload]
