"""The helper for the partner's tests answers like the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from enable_with_segment import Event, InstallContext, RetryError, Setting, Subscription, ValidationError
from enable_with_segment.testing import deliver

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


class Shelf:
    """A sink that remembers what it was given."""

    name = "shelf"
    batch = 10

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def write(self, events: Sequence[Event], install: InstallContext) -> None:  # noqa: ARG002
        self.calls += [f"write {event.type}" for event in events]

    async def erase(self, events: Sequence[Event], install: InstallContext) -> None:  # noqa: ARG002
        self.calls += [f"erase {event.user_id}" for event in events]

    async def aclose(self) -> None:
        """Nothing is open."""


async def test_sinks_are_called_only_when_they_are_asked_for() -> None:
    kept, shelf, handled = Subscription("kept"), Shelf(), []
    kept.to(shelf)

    @kept.on("track")
    async def handle(event: Event) -> None:
        handled.append(event.event)

    track, delete = {"type": "track", "userId": "u", "event": "Paid"}, {"type": "delete", "userId": "u"}
    assert {*(await deliver(kept, track)).outcomes} == {"handle"}
    answer = await deliver(kept, delete)
    assert (answer.status, answer.outcomes) == (202, {})
    assert (handled, shelf.calls) == (["Paid"], [])
    assert {*(await deliver(kept, track, sinks=True)).outcomes} == {"handle", "shelf"}
    assert (await deliver(kept, delete, sinks=True)).outcomes["shelf"].state == "done"
    assert (handled, shelf.calls) == (["Paid", "Paid"], ["write track", "erase u"])


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
