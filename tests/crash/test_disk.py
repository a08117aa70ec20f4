"""A disk that is full at any byte of a commit, and a write-ahead log that was cut off at any byte of its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from enable_with_segment.db.event_log.records import EventLogUnavailable
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from tests.db.event_log.events import later, new_event

_BASE = apsw.vfs_names()[0]
_LARGE = b'{"type":"identify","userId":"u-1","pad":"' + b"x" * 40_000 + b'"}'


class _SmallDisk(apsw.VFS):
    """A disk that takes only so many bytes more; what does not fit is cut off in the middle, as a real one does it."""

    def __init__(self) -> None:
        super().__init__("small", _BASE, makedefault=True)
        self.room: int | None = None
        self.refused = 0

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  SQLite's name
        return _SmallDiskFile(self, name, flags)

    def fits(self, size: int) -> int:
        """Take up room; returns how many bytes still fit."""
        if self.room is None:
            return size
        fitting = min(size, self.room)
        self.room -= fitting
        return fitting


class _SmallDiskFile(apsw.VFSFile):
    def __init__(self, disk: _SmallDisk, name: Any, flags: list[int]) -> None:
        super().__init__(_BASE, name, flags)
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  SQLite's name
        fitting = self._disk.fits(len(data))
        if fitting:
            super().xWrite(data[:fitting], offset)
        if fitting < len(data):
            self._disk.refused += 1
            raise apsw.FullError("no space left on device")


@pytest.fixture
def small_disk() -> Iterator[_SmallDisk]:
    disk = _SmallDisk()
    yield disk
    disk.unregister()


async def test_a_disk_that_is_full_anywhere_within_a_commit_refuses_and_the_log_comes_back_by_itself(
    small_disk: _SmallDisk, tmp_path: Path
) -> None:
    for number, room in enumerate(range(0, 40_000, 2_700)):
        log = SqliteEventLog(tmp_path / f"{number}" / "events.db")
        await log.append(new_event("before"))
        small_disk.room, small_disk.refused = room, 0
        for _ in range(2):
            with pytest.raises(EventLogUnavailable):
                await log.append(new_event("large", body=_LARGE))
        assert small_disk.refused > 0
        small_disk.room = None
        assert not (await log.append(new_event("large", body=_LARGE))).duplicate, f"with room for {room} bytes"
        assert (await log.append(new_event("before"))).duplicate
        await log.close()
        opened = SqliteEventLog(tmp_path / f"{number}" / "events.db")
        assert (await opened.prove(["before", "large"])).missing == ()
        await opened.close()


async def test_a_write_ahead_log_that_is_cut_off_anywhere_keeps_every_commit_before_the_cut(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "events.db")
    segment = tmp_path / f"events.db.{1:015}"
    lengths: list[int] = []
    for number in range(12):
        await log.append(new_event(f"m-{number}", received_at=later(minutes=number)))
        lengths.append(segment.with_name(f"{segment.name}-wal").stat().st_size)
    assert lengths == sorted(set(lengths)), "each commit is at the end of the write-ahead log"
    names = ("events.db", "events.db-wal", segment.name, f"{segment.name}-wal")
    files = {name: (tmp_path / name).read_bytes() for name in names}
    await log.close()
    cuts = sorted({length + step for length in lengths for step in (-4_000, -1, 0, 1, 100)})
    for cut in cuts:
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content[:cut] if name == names[-1] else content)
        opened = SqliteEventLog(folder / "events.db")
        kept = [f"m-{number}" for number, length in enumerate(lengths) if length <= cut]
        lost = [f"m-{number}" for number, length in enumerate(lengths) if length > cut]
        proof = await opened.prove([*kept, *lost])
        assert set(proof.missing) == set(lost), f"cut at byte {cut}"
        for message_id in lost:  # the sender never had an answer for them, so it sends them again
            assert not (await opened.append(new_event(message_id, received_at=later(hours=1)))).duplicate
        await opened.close()
