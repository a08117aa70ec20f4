"""How a dispatcher spends its time."""

from __future__ import annotations

from dataclasses import dataclass, field

from enable_with_segment.subscriptions.dispatch.circuit import CircuitPolicy


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """How the dispatcher spends its time.

    ``handler_seconds`` is how long one call may take. ``calls_per_handler`` run at the same moment.
    ``events_in_flight`` are held in all, and of one sender no more than are still free. ``queue_seconds`` is how much
    work may wait for a handler. ``stop_seconds`` is the grace at shutdown, less than the 10 s after which the process
    cancels its jobs, so that there is time to give events back. ``settle_waits`` are the seconds after which a result
    is stored again that could not be: in all as long as a lease, or as a database takes to restart.
    """

    handler_seconds: float = 30.0
    lease_seconds: float = 15.0
    poll_seconds: float = 1.0
    stop_seconds: float = 8.0
    calls_per_handler: int = 32
    events_in_flight: int = 4_000
    queue_seconds: float = 2.0
    settle_waits: tuple[float, ...] = (0.1, 0.4, 1.0, 2.0, 4.0, 7.5)
    circuit: CircuitPolicy = field(default_factory=CircuitPolicy)
