"""Waits that take too long are ended; others are left alone, and whoever is cancelled stays cancelled."""

from __future__ import annotations

import asyncio

import pytest

from enable_with_segment.subscriptions.receiving.watchdog import Watchdog


async def test_what_is_done_in_time_comes_back() -> None:
    watchdog = Watchdog(60)

    async def work() -> int:
        with watchdog.watch("working", 60):
            await asyncio.sleep(0)
        return 7

    assert await asyncio.gather(*(work() for _ in range(3))) == [7, 7, 7]


async def test_what_takes_too_long_is_ended_and_its_neighbour_is_not() -> None:
    watchdog = Watchdog(0.02)
    go = asyncio.Event()

    async def patient() -> bool:
        with watchdog.watch("waiting for long", 60):
            return await go.wait()

    waiting = asyncio.create_task(patient())
    for _ in range(2):
        with pytest.raises(TimeoutError), watchdog.watch("waiting forever", 0.02) as wait:
            await asyncio.Event().wait()
        assert wait.doing == "waiting forever"
    with pytest.raises(ValueError, match="its own error"), watchdog.watch("failing", 0.02):
        raise ValueError("its own error")
    go.set()
    assert await waiting


async def test_each_part_of_the_work_has_a_limit_of_its_own() -> None:
    watchdog = Watchdog(0.02)

    async def read_and_store() -> None:
        with watchdog.watch("reading", 60) as wait:
            wait.go_on("storing", 0.02)
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await read_and_store()
    with watchdog.watch("reading", 0.02) as wait:
        wait.go_on("storing", 60)
        await asyncio.sleep(0.1)


async def test_a_task_that_is_cancelled_from_outside_stays_cancelled() -> None:
    watchdog = Watchdog(60)

    async def work() -> None:
        with watchdog.watch("waiting", 60):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(work())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
