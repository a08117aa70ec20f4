"""Refusing events early: on a disk that is nearly full, and while commits take longer than Segment waits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from db.event_log.records import CommitsTooSlow, DiskNearlyFull

LEAST_FREE_BYTES = 64 * 1024 * 1024
"""Room that is left for handling and erasing what is stored already."""
COMMIT_BUDGET_SECONDS = 1.5
"""An event may wait for one commit and take part in the next; both fit into Segment's 5 seconds (contract 5.7)."""
_LOOK_EVERY_SECONDS = 1.0


class Admission:
    """Decides whether an event may wait for a commit. It opens again by itself."""

    def __init__(self, folder: Path, *, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._closed_until = float("-inf")
        self._looked_at = float("-inf")
        self._is_full = False

    def check(self) -> None:
        """Let an event in.

        Raises:
            CommitsTooSlow: for as long as the last commit took.
            DiskNearlyFull: until there is room.
        """
        now = self._clock()
        if now < self._closed_until:
            raise CommitsTooSlow("commits take too long")
        if now - self._looked_at >= _LOOK_EVERY_SECONDS:
            self._looked_at = now
            self._is_full = self._folder.exists() and shutil.disk_usage(self._folder).free < LEAST_FREE_BYTES
        if self._is_full:
            raise DiskNearlyFull("the disk is nearly full")

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
