"""OpenTelemetry traces from a delivery to its handlers; off unless ``TRACES`` is on, and only if it is installed.

Between the two an event lies in the event log, maybe for hours, maybe handled by another process. So the trace's id is
not carried along but made from the event's own: everything about one event is one trace, its retries included.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from typing import Any

from enable_with_segment.components.event import Event
from enable_with_segment.db.event_log.records import Appended, ClaimedEvent, NewEvent
from enable_with_segment.db.event_log.states import HandlerState
from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
from enable_with_segment.subscriptions.observer import Observer

_NAME = "enable-with-segment"


class Traces(Observer):
    """Writes a span for each event that is stored and for each handler that is done with one.

    The exporter is OpenTelemetry's own business: run ``opentelemetry-instrument`` or configure a tracer provider.

    Raises:
        SettingsInvalid: OpenTelemetry, or its SDK, is not installed.
    """

    def __init__(self) -> None:
        try:
            # Without the SDK, which is a package of its own, spans would be made and silently dropped.
            importlib.import_module("opentelemetry.sdk.trace")
            self._trace: Any = importlib.import_module("opentelemetry.trace")
        except ImportError:
            problem = "TRACES is on, but OpenTelemetry is missing: install this package with the extra [tracing]"
            raise SettingsInvalid([problem]) from None
        self._tracer = self._trace.get_tracer(_NAME)

    def stored(self, event: NewEvent, appended: Appended, *, started: float) -> None:
        trace_id = trace_id_of(event.install_id, event.key_id, event.message_id, event.body)
        attributes = {"component": event.component, "event.type": event.type, "event.duplicate": appended.duplicate}
        self._span("receive event", trace_id, started, attributes)

    def handled(
        self, handler: str, claimed: ClaimedEvent, event: Event, state: HandlerState, *, started: float
    ) -> None:
        trace_id = trace_id_of(claimed.install_id, claimed.key_id, event.message_id, claimed.body)
        attributes = {
            "component": claimed.component,
            "event.type": claimed.type,
            "handler": handler,
            "handler.result": state.value,
            "event.attempt": claimed.attempts + 1,
        }
        self._span(f"handle {handler}", trace_id, started, attributes, failed=state is HandlerState.FAILED)

    def _span(
        self, name: str, trace_id: int, started: float, attributes: dict[str, Any], *, failed: bool = False
    ) -> None:
        end = time.time_ns()
        start = end - int((self.clock() - started) * 1e9)
        root = self._trace.SpanContext(
            trace_id=trace_id,
            span_id=trace_id & (2**64 - 1) or 1,
            is_remote=True,
            trace_flags=self._trace.TraceFlags(self._trace.TraceFlags.SAMPLED),
        )
        context = self._trace.set_span_in_context(self._trace.NonRecordingSpan(root))
        span = self._tracer.start_span(name, context=context, attributes=attributes, start_time=start)
        if failed:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(end_time=end)


def trace_id_of(install_id: str | None, key_id: str, message_id: str | None, body: bytes) -> int:
    """Return the trace's id of an event, the same wherever the event is seen."""
    scope = install_id or key_id
    identity = message_id.encode("utf-8", "surrogatepass") if message_id is not None else body
    return int.from_bytes(hashlib.sha256(scope.encode() + b"\0" + identity).digest()[:16], "big") or 1
