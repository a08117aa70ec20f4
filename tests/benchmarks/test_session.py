"""A measurement that a signal ends early leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from benchmarks.session import Interrupted, held, interruptible, scratch

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_the_block_and_its_folder_goes(tmp_path: Path, number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]

    def measure() -> None:
        with interruptible(), scratch(tmp_path / "new") as folder:
            (folder / "file").write_text("there")
            os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as ended:
        measure()
    assert ended.value.code == 128 + number
    assert list((tmp_path / "new").iterdir()) == []
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_only_what_it_made_itself_goes(tmp_path: Path) -> None:
    (tmp_path / "somebody's").write_text("kept")
    with scratch(tmp_path) as folder:
        assert folder.parent == tmp_path.resolve()
    assert [path.name for path in tmp_path.iterdir()] == ["somebody's"]


def test_a_second_signal_does_not_stop_the_stopping() -> None:
    stopped = []

    def measure() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            stopped.append("all of it")

    with pytest.raises(SystemExit) as ended, interruptible():
        measure()
    assert ended.value.code == 130
    assert stopped == ["all of it"]


def test_what_is_being_started_is_known_before_a_signal_counts() -> None:
    known = []

    def measure() -> None:
        try:
            with held():
                with held():
                    os.kill(os.getpid(), signal.SIGTERM)
                known.append("server")
            known.append("never")
        finally:
            known.append("ended")

    with pytest.raises(SystemExit), interruptible():
        measure()
    assert known == ["server", "ended"]


class Dying:
    """Where Python drops what is raised."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_comes_where_nothing_can_be_raised_counts_all_the_same() -> None:
    hook = sys.unraisablehook

    def measure() -> None:
        Dying()
        threading.Event().wait(60)

    with pytest.raises(SystemExit) as ended, interruptible():
        measure()
    assert ended.value.code == 143
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_the_work_of_an_event_loop_is_unwound(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    ended = []

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("the other task")

    async def main() -> None:
        task = asyncio.create_task(other())
        asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGTERM)
        try:
            await task
        finally:
            ended.append("the measurement")

    with pytest.raises(SystemExit) as exited, interruptible():
        run(main())
    assert exited.value.code == 143
    assert sorted(ended) == ["the measurement", "the other task"]


def test_it_says_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), interruptible():
        raise Interrupted(signal.SIGTERM)
    out, err = capsys.readouterr()
    assert (out, "SIGTERM" in err) == ("", True)
