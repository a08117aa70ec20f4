"""Refusing events early while commits take longer than Segment waits; the same rule on every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from enable_with_segment.db.event_log.records import CommitsTooSlow

COMMIT_BUDGET_SECONDS = 1.5
"""An event may wait for one commit and take part in the next; both fit into Segment's 5 seconds (contract 5.7)."""


class Admission:
    """Decides whether an event may wait for a commit. It opens again by itself.

    Args:
        clock: seconds.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = float("inf")
        self._closed_until = float("-inf")

    def check(self) -> None:
        """Let an event in.

        Raises:
            CommitsTooSlow: while a commit takes longer than the budget, and after that for as long as it took.
        """
        now = self._clock()
        if now < self._closed_until or now - self._began > COMMIT_BUDGET_SECONDS:
            raise CommitsTooSlow("commits take too long")

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Take the time of a commit. There is one at a time."""
        began = self._began = self._clock()
        try:
            yield
        finally:
            ended, self._began = self._clock(), float("inf")
            if ended - began > COMMIT_BUDGET_SECONDS:
                self._closed_until = ended + (ended - began)
