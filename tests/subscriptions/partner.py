"""A partner's product: handlers that keep what they are told of people, and forget it when they are told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from enable_with_segment import Event, EventNotSupported, InvalidEventPayload, RetryError, Subscription
from enable_with_segment.db.event_log.states import HandlerState
from tests.subscriptions.mortal_log import Life

#: What a handler can make of an event, and what that is to be noted as.
ANSWERS: dict[str, HandlerState] = {
    "fine": HandlerState.DONE,
    "fails": HandlerState.RETRY,
    "asks for a wait": HandlerState.RETRY,
    "refuses": HandlerState.FAILED,
    "does not support it": HandlerState.UNSUPPORTED,
}


def _problem(answer: str) -> Exception | None:
    match answer:
        case "fails":
            return ConnectionError("away")
        case "asks for a wait":
            return RetryError("later", retry_after=timedelta(seconds=20))
        case "refuses":
            return InvalidEventPayload("unusable")
        case "does not support it":
            return EventNotSupported("not ours")
    return None


class Partner:
    """The product of a partner, which outlives every process of the service.

    Attributes:
        plans: how its handlers are going to answer for a message, call by call; after that all is fine.
        slowness: for how many rounds of the event loop its handlers work on a message.
        calls: how often they were called, by message and handler.
        answers: their last answer, by message and handler.
    """

    def __init__(self) -> None:
        self.plans: dict[str, list[str]] = {}
        self.slowness: dict[str, int] = {}
        self.calls: Counter[tuple[str, str]] = Counter()
        self.answers: dict[tuple[str, str], str] = {}
        self._kept: dict[str, list[tuple[str, datetime]]] = {}
        self._same_as: dict[str, set[str]] = {}

    def kept(self) -> list[tuple[str, datetime]]:
        """Return of whom it has something, and of when."""
        return [entry for entries in self._kept.values() for entry in entries]

    def keep(self, person: str, occurred_at: datetime) -> None:
        """Keep something of a person."""
        self._kept.setdefault(person, []).append((person, occurred_at))

    def merge(self, person: str, previous: str) -> None:
        """Learn that two ids are one person's."""
        everybody = self._everybody(person) | self._everybody(previous)
        for one in everybody:
            self._same_as[one] = everybody

    def forget(self, person: str) -> None:
        """Forget a person under every id."""
        for one in self._everybody(person):
            self._kept.pop(one, None)

    def _everybody(self, person: str) -> set[str]:
        return self._same_as.get(person, {person})

    def subscription(self, life: Life, looked_at: Callable[[Event], Awaitable[None]]) -> Subscription:
        """Return its handlers as they run in a process.

        Args:
            looked_at: is given each event when work on it begins, and when that ends.
        """
        subscription = Subscription("acme-crm")

        async def work_on(handler: str, event: Event) -> Exception | None:
            message_id = event.message_id or ""
            self.calls[message_id, handler] += 1
            life.step()
            await looked_at(event)
            for _ in range(self.slowness.get(message_id, 0)):
                await asyncio.sleep(0)
            life.step()
            plan = self.plans.get(message_id)
            answer = plan.pop(0) if plan else "fine"
            self.answers[message_id, handler] = answer
            return _problem(answer)

        @subscription.on("track")
        async def keep_one(event: Event) -> None:
            problem = await work_on("keep_one", event)
            if problem is not None:
                raise problem
            self._keep(event)
            await looked_at(event)
            life.step()

        @subscription.on("track")
        async def count(event: Event) -> None:
            self.calls[event.message_id or "", "count"] += 1
            self.answers[event.message_id or "", "count"] = "fine"
            life.step()
            await looked_at(event)

        @subscription.on("identify", batch=3)
        async def keep_batch(events: Sequence[Event]) -> object:
            answers: list[Exception | None] = []
            for event in events:
                answers.append(await work_on("keep_batch", event))
                if answers[-1] is None:
                    self._keep(event)
                    await looked_at(event)
            life.step()
            if (events[0].message_id or "").endswith(tuple("0347")):
                return answers
            return {event.message_id: answer for event, answer in zip(events, answers, strict=True)}

        @subscription.on("alias")
        async def merge(event: Event) -> None:
            problem = await work_on("merge", event)
            if problem is not None:
                raise problem
            self.merge(event.user_id or "", event.previous_id or "")
            await looked_at(event)
            life.step()

        @subscription.on("delete")
        async def forget(event: Event) -> None:
            problem = await work_on("forget", event)
            if problem is None or isinstance(problem, EventNotSupported):  # nothing is left that it could be asked for
                self.forget(event.user_id or "")
            if problem is not None:
                raise problem
            life.step()

        return subscription

    def _keep(self, event: Event) -> None:
        if event.user_id is not None:  # nobody is told which devices were a person's
            self.keep(event.user_id, event.timestamp)
