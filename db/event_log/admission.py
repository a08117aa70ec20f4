"""Refusing events early while commits take longer than Segment waits; the same rule on every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from db.event_log.records import CommitsTooSlow

COMMIT_BUDGET_SECONDS = 1.5
"""An event may wait for one commit and take part in the next; both fit into Segment's 5 seconds (contract 5.7)."""


class Admission:
    """Decides whether an event may wait for a commit. It opens again by itself.

    Args:
        clock: seconds.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._closed_until = float("-inf")

    def check(self) -> None:
        """Let an event in.

        Raises:
            CommitsTooSlow: for as long as the last commit took.
        """
        if self._clock() < self._closed_until:
            raise CommitsTooSlow("commits take too long")

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Take the time of a commit; after a slow one nothing is let in for as long as it took."""
        started = self._clock()
        try:
            yield
        finally:
            ended = self._clock()
            if ended - started > COMMIT_BUDGET_SECONDS:
                self._closed_until = ended + (ended - started)
