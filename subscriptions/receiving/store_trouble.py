"""Trouble with our own stores while a delivery waits: worth a retry, so it is a 503 and never another 4xx.

While a database is away every delivery is refused, thousands a minute. What goes wrong is logged when it begins, with
a count now and then while it lasts, and once when it is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy.exc import SQLAlchemyError

from enable_with_segment.components.errors import DeliveryRefused
from enable_with_segment.db.event_log.bug_log import raised_at
from enable_with_segment.db.event_log.records import EventLogUnavailable

logger = logging.getLogger(__name__)

_TOLD_EVERY_SECONDS = 30.0
_QUIET_SECONDS = 10.0
"""Trouble is over when a delivery was taken and none was refused for so long, so that nothing flutters."""
_MOST_KINDS = 20

_Kind: TypeAlias = tuple[str, str, str]


@dataclass(slots=True)
class _Count:
    """How often one kind of trouble was met: altogether, and since the last line about it."""

    told_at: float
    total: int = 1
    untold: int = 0


class StoreTroubles:
    """Logs trouble by its kinds: what was being done, what went wrong, and for a bug of ours, where.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[_Kind, _Count] = {}
        self._began = self._last = 0.0

    def refused(self, doing: str, error: Exception) -> None:
        """Note that a delivery was refused because ``doing`` something failed."""
        now = self._clock()
        # Of a database's error the name only: its text may quote what was to be stored.
        expected = isinstance(error, EventLogUnavailable | SQLAlchemyError | OSError)
        name = type(error.__cause__ or error).__name__
        kind = (doing, name, "" if expected else raised_at(error))
        if not self._kinds:
            self._began = now
        self._last = now
        count = self._kinds.get(kind)
        if count is None:
            if len(self._kinds) >= _MOST_KINDS:
                self._tell_all("Still answering 503")
                self._began = now
            self._kinds[kind] = _Count(now)
            logger.warning("Answering 503: %s failed (%s)", doing, name, exc_info=None if expected else error)
            return
        count.total += 1
        count.untold += 1
        if now - count.told_at >= _TOLD_EVERY_SECONDS:
            logger.warning(
                "Still answering 503: %s failed (%s), %d more times in %.0f s",
                doing,
                name,
                count.untold,
                now - count.told_at,
                exc_info=None if expected else error,
            )
            count.told_at, count.untold = now, 0

    def taken(self) -> None:
        """Note that a delivery was taken: if none was refused for a while, the trouble is over."""
        if self._kinds and self._clock() - self._last >= _QUIET_SECONDS:
            self._tell_all("Deliveries are taken again")

    def ends(self) -> None:
        """Tell what was not told yet: the process stops."""
        if self._kinds:
            self._tell_all("Stopping while a store is in trouble")

    def _tell_all(self, beginning: str) -> None:
        kinds = sorted(self._kinds.items(), key=lambda kind: -kind[1].total)
        logger.warning(
            "%s; %d were refused over %.0f s: %s",
            beginning,
            sum(count.total for _, count in kinds),
            self._last - self._began,
            ", ".join(f"{count.total} because {doing} failed ({name})" for (doing, name, _), count in kinds),
        )
        self._kinds.clear()


TROUBLES = StoreTroubles()
"""Those of this process, in which there is one service."""


def store_trouble(doing: str, error: Exception) -> DeliveryRefused:
    """Log what went wrong while ``doing`` something, and return the refusal to raise."""
    TROUBLES.refused(doing, error)
    return DeliveryRefused(503, "We cannot take events right now. Try again.")
