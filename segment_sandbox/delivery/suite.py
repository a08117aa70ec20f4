"""The review's test suite: eight events of one journey, and a verdict on the partner's answers (contract 10.1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from enable_with_segment.segment_sandbox.delivery.courier import Courier, Exchange
from enable_with_segment.segment_sandbox.jsontext import encode
from enable_with_segment.segment_sandbox.tracking.events import Event
from enable_with_segment.segment_sandbox.transcript import redact_header
from enable_with_segment.segment_sandbox.world import Destination

Verdict = Literal["green", "yellow", "red"]

_ANONYMOUS_ID = "6f1e0d5c-94b7-4c0e-8e57-2f3a1b9c7d60"
_USER_ID = "visitor-3117"
_BOTH: Event = {"anonymousId": _ANONYMOUS_ID, "userId": _USER_ID}

EVENTS: tuple[tuple[str, Event], ...] = (
    (
        "anonymous visitor opens the home page",
        {
            "type": "page",
            "anonymousId": _ANONYMOUS_ID,
            "name": "Home",
            "properties": {"url": "https://shop.example/"},
            "timestamp": "2019-05-14T09:00:00Z",
        },
    ),
    (
        "anonymous visitor opens the sign-up page",
        {
            "type": "page",
            "anonymousId": _ANONYMOUS_ID,
            "name": "Signup",
            "properties": {"url": "https://shop.example/signup"},
            "timestamp": "2019-05-14T09:01:00Z",
        },
    ),
    (
        "visitor is identified",
        {
            "type": "identify",
            **_BOTH,
            "traits": {
                "email": "visitor@mail.example",
                "first_name": "Ira",
                "last_name": "Sample",
                "phone": "+43 1 5550100",
            },
            "timestamp": "2019-05-14T09:02:00Z",
        },
    ),
    (
        "user signs up",
        {
            "type": "track",
            **_BOTH,
            "event": "Signed up",
            "properties": {"referrer": "https://search.example/"},
            "timestamp": "2019-05-14T09:02:01Z",
        },
    ),
    (
        "user is grouped",
        {
            "type": "group",
            **_BOTH,
            "groupId": "myUsers",
            "traits": {
                "employees": 12,
                "industry": "Retail",
                "name": "Sample Shop",
                "plan": "team",
                "total billed": 180,
            },
            "timestamp": "2019-05-14T09:03:00Z",
        },
    ),
    (
        "user enables an integration",
        {
            "type": "track",
            **_BOTH,
            "event": "Integration Enabled",
            "properties": {"name": "Calendar"},
            "timestamp": "2019-05-14T09:04:00Z",
        },
    ),
    (
        "user invites a teammate",
        {
            "type": "track",
            **_BOTH,
            "event": "Invited Teammate",
            "properties": {"email": "teammate@mail.example"},
            "timestamp": "2019-05-14T09:05:00Z",
        },
    ),
    (
        "user opens the mobile app",
        {
            "type": "screen",
            **_BOTH,
            "name": "Home",
            "properties": {"variation": "blue"},
            "timestamp": "2019-05-14T09:06:00Z",
        },
    ),
)


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """One event of the suite and how the partner took it."""

    label: str
    type: str
    verdict: Verdict
    status: int | None
    message: str | None


def verdict_of(status: int | None) -> Verdict:
    """Green: taken. Yellow: the type is not supported. Red: anything else."""
    if status is not None and 200 <= status < 300:
        return "green"
    return "yellow" if status == 501 else "red"


def overall(results: list[SuiteResult]) -> Verdict:
    """The worst of the results."""
    verdicts = {result.verdict for result in results}
    return "red" if "red" in verdicts else "yellow" if "yellow" in verdicts else "green"


async def run_suite(courier: Courier, destination: Destination, api_key: str | None) -> dict[str, object]:
    """Send the eight events one after the other, without retries or filters."""
    results: list[SuiteResult] = []
    for label, event in EVENTS:
        exchange = await courier.exchange(destination, encode(event), api_key)
        verdict = verdict_of(exchange.status)
        results.append(SuiteResult(label, str(event["type"]), verdict, exchange.status, exchange.message))
    return {"verdict": overall(results), "results": [asdict(result) for result in results]}


def exchange_as_json(exchange: Exchange) -> dict[str, object]:
    """A request to a partner and its answer, for somebody to look at; credentials are masked."""
    headers = [(name.decode(), value.decode()) for name, value in exchange.request.headers.raw]
    return {
        "request": {
            "url": str(exchange.request.url),
            "headers": {name: redact_header(name, value) for name, value in headers},
            "body": exchange.request.content.decode(),
        },
        "response": None
        if exchange.status is None
        else {
            "status": exchange.status,
            "headers": dict(exchange.headers.multi_items()),
            "body": exchange.body.decode(errors="replace"),
            "message": exchange.message,
        },
        "error": None if exchange.error is None else str(exchange.error) or type(exchange.error).__name__,
        "milliseconds": round(exchange.milliseconds, 2),
    }
