"""Staying within the Config API's 200 requests a minute (contract 3.7)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

REQUESTS_PER_MINUTE = 200
_WINDOW = 60.0


class RateLimiter:
    """Lets at most ``limit`` requests pass in any 60 seconds, first come first served.

    It counts what this process sends. Where several processes call Segment, give each its share.

    Args:
        limit: requests in any one minute.
        monotonic: seconds that only grow.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        limit: int = REQUESTS_PER_MINUTE,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        if limit < 1:
            raise ValueError("a rate limit lets at least one request pass")
        self._passed: deque[float] = deque(maxlen=limit)
        self._limit = limit
        self._monotonic = monotonic
        self._sleep = sleep
        self._turn = asyncio.Lock()

    async def acquire(self) -> None:
        """Wait until one more request fits."""
        async with self._turn:
            while (wait := seconds_to_wait(self._passed, self._limit, self._monotonic())) > 0:
                await self._sleep(wait)
            self._passed.append(self._monotonic())


def seconds_to_wait(passed: deque[float], limit: int, now: float) -> float:
    """How long until another request fits, given when the newest ``limit`` requests passed, oldest first."""
    if len(passed) < limit:
        return 0.0
    return max(0.0, passed[0] + _WINDOW - now)
