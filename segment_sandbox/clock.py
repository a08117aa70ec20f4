"""The sandbox's own time: it can run faster than real time, stand still, and jump ahead."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class SandboxClock:
    """Time for token expiry, retries and windows.

    `scale` is sandbox seconds per real second; 0 freezes the clock, so that only `advance` moves it.
    """

    def __init__(
        self,
        scale: float = 1.0,
        start: datetime | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scale = scale
        self._monotonic = monotonic
        self._base = start or datetime.now(UTC)
        self._base_monotonic = monotonic()

    def now(self) -> datetime:
        """The sandbox's current time, in UTC."""
        elapsed = self._monotonic() - self._base_monotonic
        return self._base + timedelta(seconds=elapsed * self.scale)

    def advance(self, seconds: float) -> datetime:
        """Jump ahead by this many sandbox seconds and return the new time."""
        self._base += timedelta(seconds=seconds)
        return self.now()

    def set_scale(self, scale: float) -> None:
        """Run at another speed from now on; the present moment does not move."""
        self._base, self._base_monotonic = self.now(), self._monotonic()
        self.scale = scale

    def real_seconds_until(self, moment: datetime) -> float | None:
        """Real seconds to wait until a sandbox moment; None when only `advance` can reach it."""
        remaining = (moment - self.now()).total_seconds()
        if remaining <= 0:
            return 0.0
        return remaining / self.scale if self.scale else None


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds and `Z`, as Segment writes times (contract 3.1)."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
