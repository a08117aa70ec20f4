"""``python -m benchmarks``, with one contender and turns of a moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

NAME = "raw ASGI, 202 and nothing else"
ROOT = Path(__file__).parents[2]


def bench(folder: Path, *, turns: int) -> subprocess.Popen[str]:
    """Start it; it is in a group of its own, as a terminal would have it."""
    command = [sys.executable, "-m", "benchmarks", "--only", "raw ASGI", "--rounds", "1", "--turns", str(turns)]
    command += ["--seconds", "0.05", "--warm-up", "0.05", "--connections", "4", "--folder", str(folder)]
    return subprocess.Popen(  # noqa: S603  our own module
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def servers_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
    return [int(child) for child in children.split() if "uvicorn" in Path(f"/proc/{child}/cmdline").read_text()]


def test_turns_are_told_as_they_end_and_the_table_at_the_end(tmp_path: Path) -> None:
    with bench(tmp_path / "bench", turns=2) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    told = [line for line in err.splitlines() if " of 2: " in line]
    assert [line.split()[0] for line in told] == ["1", "2"]
    assert f"starting {NAME}" in err
    assert NAME in out
    assert " of 2: " not in out
    assert "INCOMPLETE" not in out
    assert list((tmp_path / "bench").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_ended_early_it_shows_what_was_measured_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with bench(tmp_path / "bench", turns=1_000) as process:
        assert process.stderr is not None
        told: list[str] = []
        while not any(" of 1000: " in line for line in told):
            told.append(process.stderr.readline())
            assert told[-1], told
        servers = servers_of(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert "INCOMPLETE" in out
    (row,) = [line for line in out.splitlines() if line.startswith(NAME)]
    assert row.endswith("of 1000 turns)")
    assert len(servers) == 2
    assert not any(Path(f"/proc/{server}").exists() for server in servers)
    assert list((tmp_path / "bench").iterdir()) == []
