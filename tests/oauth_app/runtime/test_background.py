"""Background work: started again when it fails, after a pause that belongs to the trouble it is in."""

from __future__ import annotations

import asyncio

from enable_with_segment.oauth_app.runtime.background import BackgroundJob, running


class Trouble:
    """A job that runs for the given seconds each time, and then fails; at the end it goes on until it is stopped."""

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
        job = BackgroundJob("trouble", self.run, self.stopped.set)
        async with running([job], clock=lambda: self.now, sleep=self.sleep):
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

    async with running([BackgroundJob("endless", run)]):
        await started.wait()
