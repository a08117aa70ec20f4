"""Events to Parquet files, when pyarrow is installed (the extra ``parquet``)."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from enable_with_segment.components.errors import HandlerInvalid
from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.subscriptions.sinks.folder import FolderSink
from enable_with_segment.subscriptions.sinks.record import SinkRecord


class ParquetSink(FolderSink):
    """Writes each batch as one Parquet file; the columns are those of ``sinks.record``, ``payload`` as JSON text.

    Files are as large as batches: use it where events come by the thousand, and let your warehouse compact them.

    Args:
        folder: where the files go; made if it is not there.
        name: names the sink in the event log.

    Raises:
        HandlerInvalid: pyarrow is not installed.
    """

    suffix = "parquet"
    batch = 10_000

    def __init__(self, folder: str | Path, *, name: str = "parquet", clock: Clock = utc_now) -> None:
        super().__init__(folder, name=name, clock=clock)
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
            self._parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise HandlerInvalid(
                "ParquetSink needs pyarrow, which the extra [parquet] of this package brings"
            ) from None

    def _store(self, records: Sequence[SinkRecord]) -> None:
        path = self._new_path()
        temporary = path.with_name(f"{path.name}.rewriting")
        self._replace(temporary, [_row(record) for record in records])
        temporary.replace(path)

    def _rows(self, path: Path) -> Iterator[dict[str, object]]:
        yield from self._parquet.read_table(path).to_pylist()

    def _replace(self, path: Path, rows: Sequence[dict[str, object]]) -> None:
        names = (
            "id account install_id message_id type name user_id anonymous_id previous_id timestamp received_at payload"
        )
        schema = self._arrow.schema([(name, self._arrow.string()) for name in names.split()])
        self._parquet.write_table(self._arrow.Table.from_pylist(list(rows), schema=schema), path)
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _row(record: SinkRecord) -> dict[str, object]:
    row = record.as_json()
    return {**row, "payload": json.dumps(row["payload"], separators=(",", ":"))}
