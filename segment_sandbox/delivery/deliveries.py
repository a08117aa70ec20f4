"""What was, is and will be delivered to partners: decisions and records. Sending is `courier`'s work."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from enable_with_segment.segment_sandbox.clock import timestamp
from enable_with_segment.segment_sandbox.config import CatalogDestination
from enable_with_segment.segment_sandbox.delivery.anomalies import vary
from enable_with_segment.segment_sandbox.delivery.outcomes import (
    MOST_ATTEMPTS,
    RETRY_WINDOW_SECONDS,
    DeliveryState,
    Outcome,
    retry_delay,
)
from enable_with_segment.segment_sandbox.delivery.request import reason_not_to_send
from enable_with_segment.segment_sandbox.delivery.webhooks import WebhooksDestination
from enable_with_segment.segment_sandbox.identifiers import Identifiers
from enable_with_segment.segment_sandbox.jsontext import encode
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.tracking.events import Event
from enable_with_segment.segment_sandbox.world import Destination, Source

Kind = Literal["event", "duplicate", "delete", "replay"]
REORDER_DEPTH = 20


@dataclass(slots=True)
class Attempt:
    """One request to the partner. `status` is None when no answer came; times are real milliseconds."""

    number: int
    at: str
    status: int | None
    code: str
    milliseconds: float
    message: str | None = None
    """The answer's JSON `message`, if the answer was `application/json` (contract 5.5)."""
    retry_after: float | None = None


@dataclass(slots=True)
class Delivery:
    """One event on its way to one destination, or one batch to a Webhooks destination that takes batches.

    `signed_text` is what a Webhooks destination signs, and `size` the number of events.
    """

    id: int
    kind: Kind
    source: str
    destination: str
    message_id: str | None
    type: str
    body: bytes
    created_at: datetime
    state: DeliveryState = "awaiting_scheduling"
    code: str = ""
    next_attempt_at: datetime | None = None
    attempts: list[Attempt] = field(default_factory=list)
    signed_text: bytes = b""
    size: int = 1

    @property
    def pending(self) -> bool:
        return self.state in {"awaiting_scheduling", "executing", "awaiting_retry"}

    def as_dict(self) -> dict[str, object]:
        """JSON-ready, with the body as the partner gets it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "source": self.source,
            "destination": self.destination,
            "message_id": self.message_id,
            "type": self.type,
            "state": self.state,
            "code": self.code,
            "created_at": timestamp(self.created_at),
            "next_attempt_at": timestamp(self.next_attempt_at) if self.next_attempt_at else None,
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "body": json.loads(self.body),
        }


class Deliveries:
    """The log of deliveries, and the queue of those that are still due."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.changed = asyncio.Event()
        self.reset()

    def reset(self) -> None:
        """Forget every delivery, those under way included."""
        config = self._state.config
        self.log: deque[Delivery] = deque(maxlen=config.max_records)
        self.queue: list[tuple[datetime, int, int, Delivery]] = []
        self.pending: dict[int, Delivery] = {}
        self._batches: dict[str, Delivery] = {}
        self.counts: Counter[str] = Counter()
        self.dice = Identifiers(config.seed, "delivery").random
        self._number = 0

    def wake(self) -> None:
        """Signal a change: a new delivery, a finished one, or the time."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def fan_out(self, source: Source, event: Event) -> None:
        """Deliver an ingested event to each enabled destination of its source."""
        world, switches = self._state.world, self._state.switches
        for destination in list(world.destinations_of(source.name)):
            if not destination.enabled:
                continue
            entry = world.catalog[destination.slug]
            varied = vary(event, switches.anomalies, self.dice)
            if self._send_or_filter("event", destination, entry, varied) is None:
                continue
            if self.dice.random() < switches.duplicate_rate:
                self.send("duplicate", destination, varied)
        for webhook in world.webhooks_of(source.name):
            if webhook.enabled:
                self.send_to_webhook(webhook, vary(event, switches.anomalies, self.dice))

    def send_to_webhook(self, webhook: WebhooksDestination, event: Event, kind: Kind = "event") -> Delivery:
        """Queue an event for a Webhooks destination, in the batch that still waits for its first attempt if any."""
        text = webhook.text_of(event)
        batch = self._batches.get(webhook.name)
        if (
            batch is not None
            and batch.state == "awaiting_scheduling"
            and batch.id in self.pending
            and batch.size < webhook.batch_size
        ):
            batch.body = batch.body[:-1] + b"," + text + b"]"
            batch.size += 1
            return batch
        delivery = self._record(kind, webhook, event, b"[" + text + b"]" if webhook.batch_size else text)
        delivery.signed_text = text
        if webhook.batch_size:
            delivery.message_id, delivery.type = None, "batch"
            self._batches[webhook.name] = delivery
        self.pending[delivery.id] = delivery
        self._enqueue(delivery, self._state.now())
        return delivery

    def replay(self, destination: Destination, event: Event) -> Delivery | None:
        """Send an archived event again: to this destination alone, enabled or not (contract 5.11)."""
        entry = self._state.world.catalog[destination.slug]
        again = {**event, "integrations": {"All": False, entry.display_name: True}}
        return self._send_or_filter("replay", destination, entry, again)

    def _send_or_filter(
        self, kind: Kind, destination: Destination, entry: CatalogDestination, event: Event
    ) -> Delivery | None:
        code = reason_not_to_send(event, destination, entry)
        if code is None:
            return self.send(kind, destination, event)
        delivery = self._record(kind, destination, event)
        self.settle(delivery, Outcome("filtered", code))
        return None

    def send(self, kind: Kind, destination: Destination, event: Event) -> Delivery:
        """Queue a delivery for its first attempt."""
        delivery = self._record(kind, destination, event)
        self.pending[delivery.id] = delivery
        self._enqueue(delivery, self._state.now())
        return delivery

    def _record(
        self, kind: Kind, destination: Destination | WebhooksDestination, event: Event, body: bytes | None = None
    ) -> Delivery:
        self._number += 1
        message_id = event.get("messageId")
        delivery = Delivery(
            id=self._number,
            kind=kind,
            source=destination.source,
            destination=destination.name,
            message_id=message_id if isinstance(message_id, str) else None,
            type=str(event.get("type")),
            body=encode(event) if body is None else body,
            created_at=self._state.now(),
        )
        self.log.append(delivery)
        return delivery

    def _enqueue(self, delivery: Delivery, due: datetime) -> None:
        reorder = self.dice.random() < self._state.switches.reorder_rate
        order = delivery.id + (self.dice.randint(1, REORDER_DEPTH) if reorder else 0)
        delivery.next_attempt_at = due
        heapq.heappush(self.queue, (due, order, delivery.id, delivery))
        self.wake()

    def take_due(self, now: datetime) -> Delivery | None:
        """The next delivery whose time has come, now being executed."""
        if not self.queue or self.queue[0][0] > now:
            return None
        delivery = heapq.heappop(self.queue)[3]
        delivery.state, delivery.next_attempt_at = "executing", None
        return delivery

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Write down an attempt's outcome, and queue the next attempt when there is to be one."""
        delivery.state, delivery.code = outcome.state, outcome.code
        if outcome.state == "awaiting_retry":
            due = self._next_attempt(delivery)
            if due is not None:
                self._enqueue(delivery, due)
                return
            delivery.state = "discarded"
        self.pending.pop(delivery.id, None)
        self.counts[delivery.state] += 1
        if delivery.state == "succeeded":
            self.counts[f"successes.attempt.{len(delivery.attempts)}"] += 1
        self.wake()

    def _next_attempt(self, delivery: Delivery) -> datetime | None:
        made = len(delivery.attempts)
        if made >= MOST_ATTEMPTS:
            return None
        delay = retry_delay(made, self.dice)
        retry_after = delivery.attempts[-1].retry_after
        if retry_after is not None and self._state.switches.honour_retry_after:
            delay = retry_after
        due = self._state.now() + timedelta(seconds=delay)
        return due if due <= delivery.created_at + timedelta(seconds=RETRY_WINDOW_SECONDS) else None

    def find(
        self,
        *,
        source: str | None = None,
        destination: str | None = None,
        message_id: str | None = None,
        state: str | None = None,
    ) -> Iterator[Delivery]:
        """Logged deliveries, oldest first, that match everything given."""
        wanted = {"source": source, "destination": destination, "message_id": message_id, "state": state}
        for delivery in self.log:
            if all(value is None or getattr(delivery, name) == value for name, value in wanted.items()):
                yield delivery

    def summary(self) -> dict[str, object]:
        """Counts by state; replays are in here although Event Delivery would hide them."""
        waiting = Counter(delivery.state for delivery in self.pending.values())
        counts: dict[str, object] = {"total": self._number, "pending": len(self.pending)}
        return counts | dict(waiting) | dict(self.counts)
