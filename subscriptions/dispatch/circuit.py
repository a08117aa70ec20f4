"""A circuit breaker as a pure state machine: calls that keep failing are stopped, and tried again one at a time.

::

    closed --(failures in a row)--> open --(its time is over)--> half-open --(the probe succeeds)--> closed
                                      ^                              |
                                      +------(the probe fails)-------+
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum


class CircuitState(StrEnum):
    """Whether calls are made."""

    CLOSED = "closed"
    """Calls are made."""
    OPEN = "open"
    """No call is made for some time."""
    HALF_OPEN = "half_open"
    """One call at a time is made, to see whether it works again."""


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """When a circuit opens, and for how long: ``first``, then twice as long after each probe that fails."""

    failures: int = 5
    first: timedelta = timedelta(seconds=5)
    ceiling: timedelta = timedelta(minutes=2)

    def open_for(self, openings: int) -> timedelta:
        """Return how long the ``openings``-th opening in a row lasts (the first is 1)."""
        return min(self.first * (1 << min(openings - 1, 16)), self.ceiling)


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is remembered of one handler's calls for one install. Every method returns the next circuit."""

    failures: int = 0
    """Failures in a row while closed."""
    openings: int = 0
    """How often it opened in a row; 0 means closed."""
    opened_at: datetime | None = None
    open_for: timedelta = timedelta(0)
    probing: bool = False
    """Whether a probe is on its way."""

    def state(self, now: datetime) -> CircuitState:
        """Tell where it stands."""
        if self.opened_at is None:
            return CircuitState.CLOSED
        # A clock that was set back must not keep it open for longer than it was meant to be.
        if timedelta(0) <= now - self.opened_at < self.open_for:
            return CircuitState.OPEN
        return CircuitState.HALF_OPEN

    def admits(self, now: datetime) -> bool:
        """Tell whether a call may be made now."""
        if self.opened_at is None:
            return True
        state = self.state(now)
        return state is CircuitState.CLOSED or (state is CircuitState.HALF_OPEN and not self.probing)

    def reopens_at(self, now: datetime) -> datetime:
        """Return when a call may be made at the earliest."""
        if self.opened_at is None or self.state(now) is not CircuitState.OPEN:
            return now
        return self.opened_at + self.open_for

    def started(self, now: datetime) -> Circuit:
        """Note that an admitted call begins; in a half-open circuit it is the probe."""
        return replace(self, probing=True) if self.state(now) is CircuitState.HALF_OPEN else self

    def succeeded(self) -> Circuit:
        """Note that a call worked: whatever was wrong is over."""
        return CLOSED

    def failed(self, now: datetime, policy: CircuitPolicy, *, probe: bool) -> Circuit:
        """Note that a call failed. Calls that began before it opened say nothing new."""
        if self.opened_at is None:
            if self.failures + 1 < policy.failures:
                return replace(self, failures=self.failures + 1)
            return self._opened(now, policy)
        return self._opened(now, policy) if probe else self

    def abandoned(self) -> Circuit:
        """Note that a probe ended without telling anything, because it was cancelled."""
        return replace(self, probing=False)

    def _opened(self, now: datetime, policy: CircuitPolicy) -> Circuit:
        openings = self.openings + 1
        return Circuit(openings=openings, opened_at=now, open_for=policy.open_for(openings))


CLOSED = Circuit()
"""What is remembered of calls that work."""
