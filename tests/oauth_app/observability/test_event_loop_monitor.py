"""Who holds up the event loop is named while it does."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from enable_with_segment.oauth_app.observability.event_loop_monitor import EventLoopMonitor, place_of


def _blocks(caplog: pytest.LogCaptureFixture) -> None:
    until = time.monotonic() + 60
    while "is held up" not in caplog.text and time.monotonic() < until:
        time.sleep(0.01)


async def test_a_handler_that_waits_without_await_is_named(caplog: pytest.LogCaptureFixture) -> None:
    watching = asyncio.create_task(EventLoopMonitor(seconds=0.1).run())
    await asyncio.sleep(0)
    _blocks(caplog)
    async with asyncio.timeout(60):
        while "goes on" not in caplog.text:  # noqa: ASYNC110  a thread says so
            await asyncio.sleep(0.01)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    told = [
        record
        for record in caplog.records
        if record.name == "enable_with_segment.oauth_app.observability.event_loop_monitor"
    ]
    assert [record.levelno for record in told] == [logging.WARNING] * len(told)
    assert f"{Path(__file__).name}:" in told[0].getMessage()
    assert "in _blocks" in told[0].getMessage()
    assert "asyncio.to_thread" in told[0].getMessage()


def test_a_library_is_not_named_but_who_called_it() -> None:
    frames = []

    def look(value: str) -> str:
        frames.append(sys._getframe())
        return value

    json.loads('{"a": "b"}', object_hook=lambda found: look(found["a"]))
    inside_json = frames[0].f_back.f_back  # type: ignore[union-attr]
    assert inside_json is not None
    assert "json" in inside_json.f_code.co_filename
    assert "test_a_library_is_not_named_but_who_called_it" in place_of(inside_json)
    assert place_of(None) == "an unknown place"
