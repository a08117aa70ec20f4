"""Waits that take too long are ended; others are left alone, and whoever is cancelled stays cancelled."""

from __future__ import annotations

import asyncio

import pytest

from subscriptions.receiving.watchdog import Watchdog


async def test_what_is_done_in_time_comes_back() -> None:
    watchdog = Watchdog(60)

    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await asyncio.gather(*(watchdog.guard(work()) for _ in range(3))) == [7, 7, 7]


async def test_what_takes_too_long_is_ended_and_its_neighbour_is_not() -> None:
    watchdog = Watchdog(0.02)
    go = asyncio.Event()

    async def forever() -> None:
        await asyncio.Event().wait()

    async def fails() -> None:
        raise ValueError("its own error")

    with pytest.raises(TimeoutError):
        await watchdog.guard(forever())
    with pytest.raises(ValueError, match="its own error"):
        await watchdog.guard(fails())
    patient = Watchdog(60)
    waiting = asyncio.create_task(patient.guard(go.wait()))
    with pytest.raises(TimeoutError):
        await watchdog.guard(forever())
    go.set()
    assert await waiting


async def test_a_task_that_is_cancelled_from_outside_stays_cancelled() -> None:
    watchdog = Watchdog(60)
    waiting = asyncio.create_task(watchdog.guard(asyncio.Event().wait()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
