"""A disk with slower flushes: a VFS that sleeps before each sync, for every file the event log opens."""

from __future__ import annotations

import time
from typing import Any

import apsw

_BASE = apsw.vfs_names()[0]
_KEPT: list[apsw.VFS] = []


class _SlowFile(apsw.VFSFile):
    seconds = 0.0

    def xSync(self, flags: int) -> None:  # noqa: N802  SQLite's name
        time.sleep(self.seconds)
        super().xSync(flags)


class _SlowDisk(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("slow", _BASE, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  SQLite's name
        return _SlowFile(_BASE, name, flags)


def install(milliseconds: float) -> None:
    """Make it what the event log's SQLite uses in this process."""
    _SlowFile.seconds = milliseconds / 1000
    _KEPT.append(_SlowDisk())
