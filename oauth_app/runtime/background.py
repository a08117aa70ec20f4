"""Work that goes on beside the requests: started with the application, restarted when it fails, stopped in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_GOOD_WHILE_SECONDS = 60.0
"""A job that ran for so long had recovered: what fails then is a new trouble."""


@dataclass(frozen=True, slots=True)
class BackgroundJob:
    """One loop. After ``stop`` it puts away what it has in its hands and returns; without one it is cancelled."""

    name: str
    run: Callable[[], Awaitable[None]]
    stop: Callable[[], None] | None = None


@asynccontextmanager
async def running(
    jobs: Sequence[BackgroundJob],
    *,
    grace_seconds: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> AsyncIterator[None]:
    """Run the jobs while the block lasts; then stop them, and cancel those that take longer than the grace.

    A job that fails starts again after a pause, which doubles up to 30 seconds while it goes on failing.

    Args:
        clock: seconds.
        sleep: waits that many of them before a job starts again.
    """
    tasks = [asyncio.create_task(_keep_running(job, clock, sleep), name=job.name) for job in jobs]
    try:
        yield
    finally:
        for job, task in zip(jobs, tasks, strict=True):
            if job.stop is None:
                task.cancel()
            else:
                job.stop()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_seconds)
            for task in late:
                logger.warning("%s did not stop within %.0f s and is cancelled", task.get_name(), grace_seconds)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _keep_running(
    job: BackgroundJob, clock: Callable[[], float], sleep: Callable[[float], Awaitable[object]]
) -> None:
    pause = _FIRST_PAUSE_SECONDS
    while True:
        started = clock()
        try:
            await job.run()
        except Exception:
            if clock() - started >= _GOOD_WHILE_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            logger.exception("%s failed; it starts again in %.1f s", job.name, pause)
            await sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        else:
            return
