"""Events to files of JSON lines, one event a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.subscriptions.sinks.folder import FolderSink
from enable_with_segment.subscriptions.sinks.record import SinkRecord


class JsonLinesSink(FolderSink):
    """Appends events to files of JSON lines; a new file begins each day, and when one is large enough.

    An event can stand in the files twice when the process died between writing it and saying so: its ``id`` is the
    same both times.

    Args:
        folder: where the files go; made if it is not there.
        name: names the sink in the event log.
        rotate_bytes: a file that is at least this large gets no more lines.
    """

    suffix = "jsonl"
    batch = 500

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str = "json lines",
        rotate_bytes: int = 64 * 1024 * 1024,
        clock: Clock = utc_now,
    ) -> None:
        super().__init__(folder, name=name, clock=clock)
        self._rotate_bytes = rotate_bytes

    def _store(self, records: Sequence[SinkRecord]) -> None:
        with self._current().open("a+b") as file:
            _cut_torn_line(file.fileno())
            file.write(b"".join(_line(record.as_json()) for record in records))
            file.flush()
            os.fsync(file.fileno())

    def _rows(self, path: Path) -> Iterator[dict[str, object]]:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def _replace(self, path: Path, rows: Sequence[dict[str, object]]) -> None:
        with path.open("wb") as file:
            file.write(b"".join(map(_line, rows)))
            file.flush()
            os.fsync(file.fileno())

    def _current(self) -> Path:
        files = self._files()
        today = f"events-{self._clock():%Y%m%d}-"
        if files and files[-1].name.startswith(today) and files[-1].stat().st_size < self._rotate_bytes:
            return files[-1]
        return self._new_path()


def _line(row: dict[str, object]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def _cut_torn_line(descriptor: int) -> None:
    """Cut off what a process left behind that died while writing; those events come again."""
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        start = max(0, end - 65_536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
