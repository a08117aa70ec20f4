"""Background jobs: restarted whenever they end, after a pause that grows while they go on ending."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from enable_with_segment.oauth_app.runtime.background import BackgroundJob, BackgroundJobs


class Trouble:
    """A job that runs for the given seconds each time, and then fails; at the end it runs until it is stopped."""

    def __init__(self, *lasts: float) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.stopped = asyncio.Event()
        self.settled = asyncio.Event()
        self._lasts = iter(lasts)

    async def run(self) -> None:
        lasts = next(self._lasts, None)
        if lasts is None:
            self.settled.set()
            await self.stopped.wait()
            return
        self.now += lasts
        raise ConnectionError("the database is away")

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    async def pauses_of_a_run(self) -> list[float]:
        jobs = BackgroundJobs(
            [BackgroundJob("trouble", self.run, self.stopped.set)], clock=lambda: self.now, sleep=self.sleep
        )
        async with jobs.running():
            await self.settled.wait()
        return self.pauses


async def test_the_pause_doubles_while_a_job_goes_on_failing() -> None:
    assert await Trouble(*[0.0] * 9).pauses_of_a_run() == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


async def test_after_a_good_while_the_pause_begins_anew() -> None:
    assert await Trouble(0, 0, 0, 3600, 0, 59).pauses_of_a_run() == [0.5, 1, 2, 0.5, 1, 2]


async def test_a_job_without_a_stop_is_cancelled() -> None:
    started = asyncio.Event()

    async def run() -> None:
        started.set()
        await asyncio.Event().wait()

    async with BackgroundJobs([BackgroundJob("endless", run)]).running():
        await started.wait()


def _returns() -> None:
    return


def _exits() -> None:
    sys.exit("a partner's function wanted to end the process")


def _is_cancelled_from_inside() -> None:
    raise asyncio.CancelledError


def _raises_a_group() -> None:
    raise BaseExceptionGroup("from a task group", [GeneratorExit()])


def _interrupts() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("ends", "trouble"),
    [
        (_returns, "fragile returned"),
        (_exits, "fragile failed (SystemExit)"),
        (_is_cancelled_from_inside, "fragile failed (CancelledError)"),
        (_raises_a_group, "fragile failed (BaseExceptionGroup)"),
        (_interrupts, "fragile failed (KeyboardInterrupt)"),
    ],
)
async def test_a_job_that_ends_in_any_way_is_logged_shown_and_started_again(
    ends: object, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    now, runs, again, stop = [0.0], [0], asyncio.Event(), asyncio.Event()

    async def run() -> None:
        runs[0] += 1
        if runs[0] == 1:
            ends()  # type: ignore[operator]
            return
        again.set()
        await stop.wait()

    async def sleep(seconds: float) -> None:
        assert jobs.troubles == {"fragile": trouble}, "shown while it waits to start again"
        now[0] += seconds

    jobs = BackgroundJobs([BackgroundJob("fragile", run, stop.set)], clock=lambda: now[0], sleep=sleep)
    async with jobs.running():
        assert jobs.troubles == {}
        await again.wait()
        assert jobs.troubles == {"fragile": trouble}, "it has only just begun"
        now[0] += 5
        assert jobs.troubles == {}
    assert runs == [2]
    assert [(r.levelno, r.message) for r in caplog.records] == [(logging.ERROR, f"{trouble}; it starts again in 0.5 s")]
