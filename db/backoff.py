"""How long to wait before the next attempt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter, and how often to try at all.

    The defaults try 20 times over about five hours. A handler that asks for longer waits is given up when the next
    attempt would come later than ``window`` after the first one with a result, but not before ``least_attempts`` had
    one: the clock may have been set, or the service stopped for days, and then time passed in which nobody tried.
    Attempts that ended without a result, because the process died, are given up by their number alone.
    """

    first: timedelta = timedelta(seconds=2)
    factor: float = 2.0
    ceiling: timedelta = timedelta(minutes=30)
    attempts: int = 20
    window: timedelta = timedelta(hours=72)
    least_attempts: int = 5

    def delay(self, attempt: int, *, jitter: float) -> timedelta:
        """Return the wait after the ``attempt``-th failure (the first is 1).

        Args:
            jitter: a random number from 0 to 1; it moves the wait between half and all of its nominal length, so
                that events that failed together don't come back together.
        """
        doublings = min(attempt - 1, 64)
        seconds = min(self.first.total_seconds() * self.factor**doublings, self.ceiling.total_seconds())
        return timedelta(seconds=seconds * (0.5 + 0.5 * jitter))
