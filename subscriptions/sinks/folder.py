"""What sinks that write files share: a folder, a lock, whole files or none, and erasing people from all of them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from enable_with_segment.components.event import Event
from enable_with_segment.components.install_context import InstallContext
from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.subscriptions.sinks.record import SinkRecord, merged_ids, record_of, without_nul

_LOCK = ".lock"
_TEMPORARY = ".rewriting"


class FolderSink(ABC):
    """Writes ``events-{day}-{time}-{random}.{suffix}`` files; several processes may share a folder.

    Nobody keeps a file open: a file is opened under the folder's lock, written, synced and closed, so that erasing
    can replace it. A file system without ``flock`` between machines needs a folder for each.
    """

    suffix: str
    batch: int
    always = ("alias",)

    def __init__(self, folder: str | Path, *, name: str, clock: Clock = utc_now) -> None:
        self.name = name
        self._folder = Path(folder)
        self._clock = clock
        self._busy = asyncio.Lock()

    async def write(self, events: Sequence[Event], install: InstallContext) -> None:
        """Store events; they are on disk when this returns."""
        records = [record_of(event, install) for event in events]
        async with self._busy:
            await asyncio.to_thread(self._write_locked, records)

    async def erase(self, events: Sequence[Event], install: InstallContext) -> None:
        """Rewrite every file that holds something of the people that deletions name."""
        records = [record_of(event, install) for event in events]
        async with self._busy:
            await asyncio.to_thread(self._erase_locked, records)

    async def aclose(self) -> None:
        """Do nothing: nothing is held open."""
        return

    @abstractmethod
    def _store(self, records: Sequence[SinkRecord]) -> None:
        """Write records, under the lock."""

    @abstractmethod
    def _rows(self, path: Path) -> Iterator[dict[str, object]]:
        """Read a file's rows, in the form of ``SinkRecord.as_json``."""

    @abstractmethod
    def _replace(self, path: Path, rows: Sequence[dict[str, object]]) -> None:
        """Write a file anew at ``path``."""

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"events-*.{self.suffix}"))

    def _new_path(self) -> Path:
        return self._folder / f"events-{self._clock():%Y%m%d-%H%M%S%f}-{secrets.token_hex(4)}.{self.suffix}"

    def _write_locked(self, records: Sequence[SinkRecord]) -> None:
        with self._locked():
            self._store(records)
            sync_folder(self._folder)

    def _erase_locked(self, deletions: Sequence[SinkRecord]) -> None:
        with self._locked():
            for path in self._folder.glob(f"*{_TEMPORARY}"):
                path.unlink()
            merges: dict[str, list[tuple[str | None, str | None]]] = {}
            for path in self._files():
                for row in self._rows(path):
                    if row["type"] == "alias":
                        pair = (without_nul(_text(row["previous_id"])), without_nul(_text(row["user_id"])))
                        merges.setdefault(str(row["account"]), []).append(pair)
            persons = [
                (deletion, merged_ids(deletion.user_id, merges.get(deletion.account, ())))
                for deletion in deletions
                if deletion.user_id is not None
            ]
            for path in self._files():
                rows = list(self._rows(path))
                kept = [row for row in rows if not any(_concerns(row, *person) for person in persons)]
                if len(kept) == len(rows):
                    continue
                if kept:
                    temporary = path.with_name(path.name + _TEMPORARY)
                    self._replace(temporary, kept)
                    temporary.replace(path)
                else:
                    path.unlink()
            sync_folder(self._folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def sync_folder(folder: Path) -> None:
    """Make new and replaced names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _concerns(row: dict[str, object], deletion: SinkRecord, ids: set[str]) -> bool:
    theirs = {without_nul(_text(row["user_id"])), without_nul(_text(row["anonymous_id"]))}
    if row["account"] != deletion.account or not theirs & ids:
        return False
    return datetime.fromisoformat(str(row["timestamp"])) <= deletion.timestamp


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
