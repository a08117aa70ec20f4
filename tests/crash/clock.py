"""A wall clock that can be moved under running processes: they all read from one file how far it is off."""

from __future__ import annotations

import mmap
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

_SECONDS = struct.Struct("<d")


class MovedClock:
    """The real time and an offset that every holder of the file sees at once."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_SECONDS.pack(0.0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _SECONDS.size)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset

    @property
    def offset(self) -> timedelta:
        """How far the clock is off."""
        return timedelta(seconds=_SECONDS.unpack_from(self._shared)[0])

    def move_to(self, offset: timedelta) -> None:
        """Let the clock be off by so much from now on, in every process."""
        _SECONDS.pack_into(self._shared, 0, offset.total_seconds())
