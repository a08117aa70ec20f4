"""The customer's side of the demo: real events, sent with Segment's own Python SDK to the sandbox's ingestion."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from enable_with_segment.oauth_app.demo.processes import DemoFailed

USER = "cust_20418"
_VISITOR = "8b6f2f0e-30a1-4d3b-8a4e-0f7f6cf0c9ab"


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event the SDK took."""

    type: str
    name: str
    message_id: str


async def send_customer_journey(write_key: str, host: str) -> list[SentEvent]:
    """Send what a visitor who becomes a customer causes, one event of every type; returns once all are accepted.

    Raises:
        DemoFailed: the SDK is not installed, or could not deliver.
    """
    return await asyncio.to_thread(_send, write_key, host)


def _send(write_key: str, host: str) -> list[SentEvent]:
    try:
        from segment.analytics.client import Client  # noqa: PLC0415 - an extra that only the demo needs
    except ImportError:
        raise DemoFailed("the demo sends with Segment's SDK; install it with: pip install '.[demo]'") from None
    problems: list[object] = []
    client = Client(
        write_key, host=host, gzip=True, max_retries=2, on_error=lambda error, _items: problems.append(error)
    )
    calls = [
        client.page(anonymous_id=_VISITOR, name="Pricing", properties={"path": "/pricing", "title": "Prices"}),
        client.track(anonymous_id=_VISITOR, event="Demo Requested", properties={"plan": "team"}),
        client.alias(previous_id=_VISITOR, user_id=USER),
        client.identify(
            user_id=USER,
            anonymous_id=_VISITOR,
            traits={"email": "k.huber@mail.example", "firstName": "Karin", "last_name": "Huber"},
        ),
        client.group(user_id=USER, group_id="acct_77", traits={"name": "Huber OG", "employees": 7}),
        client.track(
            user_id=USER,
            event="Order Completed",
            properties={"order_id": "o-551", "revenue": "39.95", "currency": "EUR"},
        ),
        client.track(user_id=USER, event="Order Completed", properties={"order_id": "o-552", "revenue": 20.5}),
        client.screen(user_id=USER, name="Order Detail", properties={"order_id": "o-551"}),
    ]
    client.flush()
    client.join()
    if problems:
        raise DemoFailed(f"Segment's SDK could not deliver: {problems[0]}")
    return [_sent(*call) for call in calls]


def _sent(accepted: bool, message: dict[str, Any]) -> SentEvent:
    if not accepted:
        raise DemoFailed("Segment's SDK refused an event: its queue is full")
    name = message.get("event") or message.get("name") or message.get("groupId") or message.get("userId") or ""
    return SentEvent(str(message["type"]), str(name), str(message["messageId"]))
