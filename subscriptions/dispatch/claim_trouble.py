"""Why no events can be claimed: logged when that begins, counted now and then while it lasts, and once when it is over.

A dispatcher tries again every second, or sooner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

_TOLD_EVERY_SECONDS = 30.0


class ClaimTrouble:
    """Logs trouble with claiming events, by its reason.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reason: str | None = None
        self._began = self._told_at = 0.0
        self._total = self._untold = 0

    def met(self, reason: str) -> None:
        """Note that events could not be claimed."""
        now = self._clock()
        if self._reason is None:
            self._began, self._total = now, 0
        self._total += 1
        if reason != self._reason:
            logger.warning("No events can be claimed: %s", reason)
            self._reason, self._told_at, self._untold = reason, now, 0
            return
        self._untold += 1
        since = now - self._told_at
        if since >= _TOLD_EVERY_SECONDS:
            logger.warning("Still no events can be claimed: %s, %d more times in %.0f s", reason, self._untold, since)
            self._told_at, self._untold = now, 0

    def over(self) -> None:
        """Note that events could be claimed."""
        if self._reason is not None:
            self._reason = None
            took = self._clock() - self._began
            logger.warning(
                "Events can be claimed again, after %d times in %.0f s that they could not", self._total, took
            )
