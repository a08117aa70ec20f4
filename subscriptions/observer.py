"""What watches events go by, for metrics and traces: told what happened, never asked, and free when nobody watches."""

from __future__ import annotations

import time

from enable_with_segment.components.event import Event
from enable_with_segment.db.event_log.records import Appended, ClaimedEvent, NewEvent
from enable_with_segment.db.event_log.states import EventState, HandlerState


class Observer:
    """Does nothing; what wants to know something overrides it. No method may raise or wait."""

    clock = staticmethod(time.perf_counter)
    """Seconds, for ``started``."""

    def answered(self, component: str, status: int) -> None:
        """A delivery was answered; ``component`` is empty for an endpoint that does not exist."""

    def stored(self, event: NewEvent, appended: Appended, *, started: float) -> None:
        """An event is durable; ``started`` is when storing it began."""

    def handled(
        self, handler: str, claimed: ClaimedEvent, event: Event, state: HandlerState, *, started: float
    ) -> None:
        """A handler is done with an event, one way or the other; ``started`` is when it was called."""

    def settled(self, claimed: ClaimedEvent, state: EventState) -> None:
        """The outcome of an attempt at an event was stored."""


class Observers(Observer):
    """Tells several observers."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def answered(self, component: str, status: int) -> None:
        for observer in self._observers:
            observer.answered(component, status)

    def stored(self, event: NewEvent, appended: Appended, *, started: float) -> None:
        for observer in self._observers:
            observer.stored(event, appended, started=started)

    def handled(
        self, handler: str, claimed: ClaimedEvent, event: Event, state: HandlerState, *, started: float
    ) -> None:
        for observer in self._observers:
            observer.handled(handler, claimed, event, state, started=started)

    def settled(self, claimed: ClaimedEvent, state: EventState) -> None:
        for observer in self._observers:
            observer.settled(claimed, state)
