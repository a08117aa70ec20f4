"""Refusing events on a disk that is nearly full."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from enable_with_segment.db.event_log.records import DiskNearlyFull

LEAST_FREE_BYTES = 64 * 1024 * 1024
"""Room that is left for handling and erasing what is stored already."""
_LOOK_EVERY_SECONDS = 1.0


class DiskRoom:
    """Decides whether there is room for an event. Looks again by itself.

    Args:
        folder: where the files grow.
        clock: seconds.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._looked_at = float("-inf")
        self._is_full = False

    def check(self) -> None:
        """Let an event in.

        Raises:
            DiskNearlyFull: until there is room.
        """
        now = self._clock()
        if now - self._looked_at >= _LOOK_EVERY_SECONDS:
            self._looked_at = now
            self._is_full = self._folder.exists() and shutil.disk_usage(self._folder).free < LEAST_FREE_BYTES
        if self._is_full:
            raise DiskNearlyFull("the disk is nearly full")
