"""Work that goes on beside the requests: started with the application, restarted when it fails, stopped in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class BackgroundJob:
    """One loop. After ``stop`` it puts away what it has in its hands and returns; without one it is cancelled."""

    name: str
    run: Callable[[], Awaitable[None]]
    stop: Callable[[], None] | None = None


@asynccontextmanager
async def running(jobs: Sequence[BackgroundJob], *, grace_seconds: float = 10.0) -> AsyncIterator[None]:
    """Run the jobs while the block lasts; then stop them, and cancel those that take longer than the grace."""
    tasks = [asyncio.create_task(_keep_running(job), name=job.name) for job in jobs]
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


async def _keep_running(job: BackgroundJob) -> None:
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            await job.run()
        except Exception:
            logger.exception("%s failed; it starts again in %.1f s", job.name, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        else:
            return
