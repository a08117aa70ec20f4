"""The helper for the partner's tests answers like the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from subscriptions import Event, InstallContext, RetryError, Setting, Subscription, ValidationError
from subscriptions.testing import deliver

seen: list[tuple[str, str, object]] = []
crm = Subscription("acme-crm", settings=[Setting("listId", type=int, required=True)])


@crm.on("track", event="Order Completed")
async def record_order(event: Event, install: InstallContext, settings: Mapping[str, Any]) -> None:
    seen.append((event.user_id or "", install.account, settings["listId"]))


@crm.on("track", batch=10)
async def store(events: list[Event]) -> list[Exception | None]:
    return [ValidationError("odd") if event.event == "Odd" else None for event in events]


@crm.on("identify")
async def away(event: Event) -> None:
    raise RetryError("the CRM is away")


async def test_handlers_are_called_and_their_outcomes_are_named() -> None:
    result = await deliver(crm, {"type": "track", "userId": 7, "event": "Order Completed"}, settings={"list_id": "3"})
    assert (result.status, {name: verdict.state.value for name, verdict in result.outcomes.items()}) == (
        202,
        {"record_order": "done", "store": "done"},
    )
    assert seen == [("7", "test-account", 3)]
    odd = await deliver(crm, {"type": "track", "userId": 7, "event": "Odd"}, settings={"listId": 3})
    assert (odd.outcomes["store"].state.value, odd.outcomes["store"].reason) == ("failed", "odd")
    retried = await deliver(crm, {"type": "identify", "userId": 7}, settings={"listId": 3})
    assert retried.outcomes["away"].state.value == "retry"


@pytest.mark.parametrize(
    ("event", "settings", "status"),
    [
        ({"type": "identify"}, {"listId": 1}, 400),
        ({"type": "identify", "userId": "u"}, {}, 400),
        ({"type": "group", "userId": "u"}, {"listId": 1}, 501),
    ],
)
async def test_refusals_are_those_of_the_endpoint(event: dict[str, Any], settings: dict[str, Any], status: int) -> None:
    result = await deliver(crm, event, settings=settings)
    assert result.status == status
    assert result.outcomes == {}
