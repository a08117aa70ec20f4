"""A disk that hears no more of a process once that has died, even in the middle of a transaction."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw

from enable_with_segment.db.event_log.records import EventLogUnavailable
from tests.subscriptions.mortal_log import Life

_BASE = apsw.vfs_names()[0]


class MortalDisk(apsw.VFS):
    """Everything that the driver's SQLite opens while this is registered is on this disk.

    A step is taken with each flush, and whenever another file is written to than before. Inside one file SQLite's own
    transactions hold; what a log does in several files is its own. What a dead process still writes is lost, and it
    hears of that no more than of anything else.
    """

    def __init__(self) -> None:
        super().__init__("mortal", _BASE, makedefault=True)
        self._life = Life()
        self._last: str | None = None

    def belong_to(self, life: Life) -> None:
        """Hear of another process from now on."""
        self._life, self._last = life, None

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  SQLite's name
        return _MortalFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802  SQLite's name
        if self.hears(None):
            super().xDelete(filename, syncdir)

    def hears(self, path: str | None) -> bool:
        """Tell whether what is done to a file, or a flush for ``None``, is done by a process that lives."""
        if path is None or path != self._last:
            with suppress(EventLogUnavailable):
                self._life.step()
        self._last = path or self._last
        return not self._life.died.is_set()


class _MortalFile(apsw.VFSFile):
    def __init__(self, disk: MortalDisk, name: Any, flags: list[int]) -> None:
        super().__init__(_BASE, name, flags)
        self._disk = disk
        self._path = Path(name.filename() if isinstance(name, apsw.URIFilename) else str(name)).name

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  SQLite's name
        if self._disk.hears(self._path):
            super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802  SQLite's name
        if self._disk.hears(self._path):
            super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802  SQLite's name
        if self._disk.hears(None):
            super().xSync(flags)
