"""Sinks that write files."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enable_with_segment import HandlerInvalid, InstallContext, JsonLinesSink, ParquetSink
from enable_with_segment.subscriptions.sinks.folder import FolderSink
from tests.subscriptions.sinks.conftest import NOON, event


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def files(folder: Path, pattern: str = "*.jsonl") -> list[Path]:
    return sorted(folder.glob(pattern))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in files(folder) for line in path.read_text("utf-8").splitlines()]


async def test_events_are_lines_in_the_order_they_came(tmp_path: Path, install: InstallContext) -> None:
    sink = JsonLinesSink(tmp_path / "events", clock=Clock())
    await sink.write([event("track", event=f"E{number}", text="ü\n") for number in range(3)], install)
    await sink.write([event("page", name="Home")], install)
    found = rows(tmp_path / "events")
    assert [row["name"] for row in found] == ["E0", "E1", "E2", "Home"]
    assert found[0]["account"] == "acme"
    assert found[0]["payload"]["text"] == "ü\n"
    assert len(files(tmp_path / "events")) == 1


async def test_a_new_file_begins_when_one_is_large_enough_and_each_day(tmp_path: Path, install: InstallContext) -> None:
    clock = Clock()
    sink = JsonLinesSink(tmp_path, rotate_bytes=100, clock=clock)
    for _ in range(3):
        await sink.write([event("track", event="A")], install)
    assert len(files(tmp_path)) == 3
    large = JsonLinesSink(tmp_path, clock=clock)
    await large.write([event("track", event="A")], install)
    assert len(files(tmp_path)) == 3
    clock.now += timedelta(days=1)
    await large.write([event("track", event="A")], install)
    names = [path.name for path in files(tmp_path)]
    assert len(names) == 4
    assert names[-1].startswith("events-20260303-")


async def test_a_torn_line_is_cut_off_before_the_next_one(tmp_path: Path, install: InstallContext) -> None:
    sink = JsonLinesSink(tmp_path, clock=Clock())
    await sink.write([event("track", event="A")], install)
    (path,) = files(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"id": "' + b"x" * 100_000)
    await sink.write([event("track", event="B")], install)
    assert [row["name"] for row in rows(tmp_path)] == ["A", "B"]
    path.write_bytes(b"torn from the first byte on")
    await sink.write([event("track", event="C")], install)
    assert [row["name"] for row in rows(tmp_path)] == ["C"]


async def erase_and_read(sink: FolderSink, install: InstallContext) -> list[str]:
    """Write the life of two people under several ids, and erase one of them."""
    other = InstallContext("globex", "acme-crm")
    await sink.write(
        [
            event("track", None, anonymousId="device-1", event="before"),
            event("alias", "u-1", previousId="device-1"),
            event("alias", "u-1", previousId="u-0"),
            event("track", "u-0", event="old id"),
            event("track", "u-1", event="known"),
            event("track", "u-1", minutes=10, event="came back"),
            event("track", "u-2", event="somebody else"),
        ],
        install,
    )
    await sink.write([event("track", "u-1", event="same id elsewhere")], other)
    await sink.erase([event("delete", "u-1", minutes=5)], install)
    await sink.erase([event("delete", "nobody", minutes=5)], install)
    return sorted(str(row["name"]) for path in sink._files() for row in sink._rows(path))


SURVIVORS = ["came back", "same id elsewhere", "somebody else"]


async def test_case_107_a_deletion_reaches_every_file_and_merged_id(tmp_path: Path, install: InstallContext) -> None:
    assert await erase_and_read(JsonLinesSink(tmp_path, clock=Clock(), rotate_bytes=1), install) == SURVIVORS
    assert not files(tmp_path, "*rewriting")
    text = b"".join(path.read_bytes() for path in files(tmp_path))
    assert b"device-1" not in text


async def test_two_sinks_share_a_folder(tmp_path: Path, install: InstallContext) -> None:
    sinks = [JsonLinesSink(tmp_path), JsonLinesSink(tmp_path)]
    batches = [[event("track", event=f"{number}")] for number in range(40)]
    erasures = [sinks[0].erase([event("delete", "u-9")], install) for _ in range(5)]
    writes = [sinks[number % 2].write(batch, install) for number, batch in enumerate(batches)]
    await asyncio.gather(*writes, *erasures)
    assert sorted(int(row["name"]) for row in rows(tmp_path)) == list(range(40))


async def test_parquet_files_or_a_clear_sentence(tmp_path: Path, install: InstallContext) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        with pytest.raises(HandlerInvalid, match=r"pyarrow, which the extra \[parquet\]"):
            ParquetSink(tmp_path)
    else:
        assert await erase_and_read(ParquetSink(tmp_path), install) == SURVIVORS
