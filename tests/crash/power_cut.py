"""A disk that loses what was not flushed when the power is cut, and whose flushes can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import apsw

_BASE = apsw.vfs_names()[0]

Files: TypeAlias = dict[str, bytes]
"""What is on a disk, by path."""


class VolatileDisk(apsw.VFS):
    """Everything that the driver's SQLite opens while this is registered is on this disk.

    What was written is there for every process at once, and on the disk for good once a flush succeeded. A flush that
    fails loses what it was to write, as Linux does it: the next one has nothing to do with that any more.

    Attributes:
        failing: the beginning of the names of files whose flushes fail; empty where all succeed.
        failed: how many flushes failed.
    """

    def __init__(self) -> None:
        super().__init__("volatile", _BASE, makedefault=True)
        self.failing = ""
        self.failed = 0
        self._kept: dict[str, bytearray] = {}
        self._unflushed: dict[str, list[tuple[int, bytes | None]]] = {}

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  SQLite's name
        return _VolatileFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802  SQLite's name
        super().xDelete(filename, syncdir)
        self._kept.pop(filename, None)
        self._unflushed.pop(filename, None)

    def write(self, path: str, offset: int, data: bytes | None) -> None:
        """Take note of bytes that were written, or of a file that ends at the offset now."""
        self._unflushed.setdefault(path, []).append((offset, data))

    def flush(self, path: str) -> bool:
        """Keep what was written to a file; tells whether that succeeded."""
        changes = self._unflushed.pop(path, [])
        if self.failing and Path(path).name.startswith(self.failing):
            self.failed += 1
            return False
        kept = self._kept.setdefault(path, bytearray())
        for offset, data in changes:
            if data is None:
                del kept[offset:]
                continue
            kept.extend(bytes(max(0, offset - len(kept))))
            kept[offset : offset + len(data)] = data
        return True

    def kept(self, folder: Path) -> Files:
        """Return what of a folder would be left if the power was cut now."""
        return {path: bytes(kept) for path, kept in self._kept.items() if Path(path).parent == folder}


class _VolatileFile(apsw.VFSFile):
    def __init__(self, disk: VolatileDisk, name: Any, flags: list[int]) -> None:
        super().__init__(_BASE, name, flags)
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  SQLite's name
        super().xWrite(data, offset)
        self._disk.write(self._path, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802  SQLite's name
        super().xTruncate(newsize)
        self._disk.write(self._path, newsize, None)

    def xSync(self, flags: int) -> None:  # noqa: N802  SQLite's name
        if not self._disk.flush(self._path):
            raise apsw.IOError("flushing failed")
        super().xSync(flags)


def restore(files: Files, folder: Path) -> Path:
    """Put into a new folder what a power cut left; returns the folder."""
    folder.mkdir()
    for path, content in files.items():
        (folder / Path(path).name).write_bytes(content)
    return folder
