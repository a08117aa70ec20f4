"""What this process counts: deliveries, stored events, handlers' results, answers to browsers.

Labels are bounded: components, handlers, statuses and routes come from the code, never from a request.
"""

from __future__ import annotations

import time
from collections import Counter

from enable_with_segment.components.event import Event
from enable_with_segment.db.event_log.records import Appended, ClaimedEvent, NewEvent
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.oauth_app.observability.exposition import Family, Histogram, Sample
from enable_with_segment.subscriptions.observer import Observer

PREFIX = "enable_with_segment"
_COMMIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_HANDLER_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)
_ROUTES = ("auth", "connect", "status", "dashboard", "api", "sign-in", "button.js", "healthz", "readyz", "metrics")


class Metrics(Observer):
    """Counters since this process started."""

    def __init__(self) -> None:
        self._started = time.time()
        self._deliveries: Counter[tuple[str, int]] = Counter()
        self._received: Counter[str] = Counter()
        self._duplicates: Counter[str] = Counter()
        self._differing: Counter[str] = Counter()
        self._commits = Histogram(_COMMIT_BOUNDS)
        self._results: Counter[tuple[str, str, HandlerState]] = Counter()
        self._handlers: dict[tuple[str, str], Histogram] = {}
        self._outcomes: Counter[tuple[str, EventState]] = Counter()
        self._responses: Counter[tuple[str, int]] = Counter()

    def answered(self, component: str, status: int) -> None:
        self._deliveries[component, status] += 1

    def stored(self, event: NewEvent, appended: Appended, *, started: float) -> None:
        (self._received if appended.event_id is not None else self._duplicates)[event.component] += 1
        if appended.differs:
            self._differing[event.component] += 1
        self._commits.observe(self.clock() - started)

    def handled(
        self,
        handler: str,
        claimed: ClaimedEvent,
        event: Event,  # noqa: ARG002  traces need it
        state: HandlerState,
        *,
        started: float,
    ) -> None:
        self._results[claimed.component, handler, state] += 1
        key = (claimed.component, handler)
        histogram = self._handlers.get(key)
        if histogram is None:
            histogram = self._handlers[key] = Histogram(_HANDLER_BOUNDS)
        histogram.observe(self.clock() - started)

    def settled(self, claimed: ClaimedEvent, state: EventState) -> None:
        self._outcomes[claimed.component, state] += 1

    def responded(self, path: str, status: int) -> None:
        """A browser, operator or load balancer was answered."""
        first = path.strip("/").partition("/")[0]
        route = "home" if not first else first if first in _ROUTES else "other"
        self._responses[route, status] += 1

    def families(self) -> list[Family]:
        """Return everything counted so far."""
        return [
            Family(
                f"{PREFIX}_deliveries_total",
                "counter",
                "Deliveries answered, by status; no component: an endpoint that does not exist.",
                [
                    Sample(count, {"component": component, "status": str(status)})
                    for (component, status), count in sorted(self._deliveries.items())
                ],
            ),
            _by_component("events_received_total", "Events stored for the first time.", self._received),
            _by_component(
                "events_duplicate_total", "Events that were in the log before: retries and replays.", self._duplicates
            ),
            _by_component(
                "events_differing_total", "Duplicates by messageId whose body is another one.", self._differing
            ),
            Family(
                f"{PREFIX}_commit_seconds",
                "histogram",
                "From an event that was checked to one that is durable.",
                self._commits.samples(),
            ),
            Family(
                f"{PREFIX}_handler_results_total",
                "counter",
                "Calls of handlers by event: done, unsupported, retry, failed.",
                [
                    Sample(count, {"component": component, "handler": handler, "result": state.value})
                    for (component, handler, state), count in sorted(self._results.items())
                ],
            ),
            Family(
                f"{PREFIX}_handler_seconds",
                "histogram",
                "How long a handler took for an event, waiting for its turn included.",
                [
                    sample
                    for (component, handler), histogram in sorted(self._handlers.items())
                    for sample in histogram.samples({"component": component, "handler": handler})
                ],
            ),
            Family(
                f"{PREFIX}_event_outcomes_total",
                "counter",
                "Attempts at events by the state the event was left in; pending means another attempt.",
                [
                    Sample(count, {"component": component, "state": state.value})
                    for (component, state), count in sorted(self._outcomes.items())
                ],
            ),
            Family(
                f"{PREFIX}_http_responses_total",
                "counter",
                "Answers to browsers, operators and load balancers; deliveries are counted apart.",
                [
                    Sample(count, {"route": route, "status": str(status)})
                    for (route, status), count in sorted(self._responses.items())
                ],
            ),
            Family(
                "process_start_time_seconds",
                "gauge",
                "When this process started, in seconds since 1970.",
                [Sample(self._started)],
            ),
        ]


def _by_component(name: str, text: str, counter: Counter[str]) -> Family:
    samples = [Sample(count, {"component": component}) for component, count in sorted(counter.items())]
    return Family(f"{PREFIX}_{name}", "counter", text, samples)
