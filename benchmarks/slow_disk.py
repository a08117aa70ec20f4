"""A disk with slower flushes: an SQLite VFS that sleeps before each sync."""

from __future__ import annotations

import time
from typing import Any

import apsw

NAME = "slow"


def install(milliseconds: float) -> None:
    """Make the VFS ``slow`` known to SQLite."""
    seconds = milliseconds / 1000

    class File(apsw.VFSFile):
        def xSync(self, flags: int) -> None:  # noqa: N802  SQLite's name
            time.sleep(seconds)
            super().xSync(flags)

    class Disk(apsw.VFS):
        def __init__(self) -> None:
            super().__init__(NAME, "")

        def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
            return File("", name, flags)

    _kept.append(Disk())


_kept: list[apsw.VFS] = []
