"""Which events handlers hold: a file that tells, after a sudden end, what they had been called with.

It is written without waiting for the disk: it has to outlive the process, not a power cut, and saying too little of
an attempt only loses the note that it had no result. So a disk that takes no more is logged and no failure.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

_ID = struct.Struct("<q")
_COMPACT_BYTES = 4 * 1024 * 1024


class HeldFile:
    """Appends an id before a handler is called, and the negative id when the attempt has ended."""

    def __init__(self, catalogue: Path) -> None:
        path = catalogue.with_name(f"{catalogue.name}.held")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._held = self._read()
        self.left_over = frozenset(self._held)
        """What was begun and never ended."""
        self._compact()

    def add(self, event_ids: Iterable[int]) -> None:
        """Note that handlers are about to be called with events."""
        ids = list(event_ids)
        self._held.update(ids)
        self._append(ids)

    def remove(self, event_ids: Iterable[int]) -> None:
        """Note that events were settled or given back."""
        ids = [event_id for event_id in event_ids if event_id in self._held]
        self._held.difference_update(ids)
        if not ids:
            return
        if self._held and self._bytes < _COMPACT_BYTES:
            self._append([-event_id for event_id in ids])
        else:
            self._compact()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _append(self, numbers: list[int]) -> None:
        data = b"".join(map(_ID.pack, numbers))
        try:
            written = os.write(self._file, data)
            self._bytes += written - written % _ID.size
            if written % _ID.size:  # the disk is full; no note may stand there by half
                os.ftruncate(self._file, self._bytes)
        except OSError as error:
            logger.warning("What is begun cannot be noted (%s)", error.strerror)

    def _compact(self) -> None:
        self._bytes = 0
        try:
            os.ftruncate(self._file, 0)
        except OSError as error:
            logger.warning("What is begun cannot be noted (%s)", error.strerror)
        self._append(sorted(self._held))

    def _read(self) -> set[int]:
        data = os.pread(self._file, os.fstat(self._file).st_size, 0)
        held: set[int] = set()
        for (number,) in _ID.iter_unpack(data[: len(data) - len(data) % _ID.size]):
            if number > 0:
                held.add(number)
            else:
                held.discard(-number)
        return held
