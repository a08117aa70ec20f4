"""Background jobs: started with the application, restarted whenever they end, stopped in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_GOOD_WHILE_SECONDS = 60.0
"""A job that ran for so long had recovered: its next failure counts as the first."""

_SETTLED_SECONDS = 5.0
"""A job that was restarted counts as running again after this time."""


@dataclass(frozen=True, slots=True)
class BackgroundJob:
    """One loop. After ``stop`` it finishes what it is working on and returns; without one it is cancelled."""

    name: str
    run: Callable[[], Awaitable[None]]
    stop: Callable[[], None] | None = None


class BackgroundJobs:
    """Runs jobs, and knows which of them do not run.

    A job ends only when it is stopped. One that ends otherwise, by whatever exception or by returning, is logged and
    started again after a pause, which doubles up to 30 seconds while it goes on ending.

    Args:
        clock: seconds.
        sleep: waits that many of them before a job starts again.
    """

    def __init__(
        self,
        jobs: Sequence[BackgroundJob],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._jobs = tuple(jobs)
        self._clock = clock
        self._sleep = sleep
        self._stopping = False
        self._troubles: dict[str, str] = {}
        self._restarted_at: dict[str, float | None] = {}

    @property
    def troubles(self) -> Mapping[str, str]:
        """What is known of the jobs that do not run, or run again for less than five seconds, by name."""
        now = self._clock()
        return {
            name: trouble
            for name, trouble in self._troubles.items()
            if (restarted := self._restarted_at.get(name)) is None or now - restarted < _SETTLED_SECONDS
        }

    @asynccontextmanager
    async def running(self, *, grace_seconds: float = 10.0) -> AsyncIterator[None]:
        """Run the jobs while the block lasts; then stop them, and cancel those that take longer than the grace."""
        tasks = [asyncio.create_task(self._keep_running(job), name=job.name) for job in self._jobs]
        try:
            yield
        finally:
            self._stopping = True
            for job, task in zip(self._jobs, tasks, strict=True):
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

    async def _keep_running(self, job: BackgroundJob) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            started = self._clock()
            if job.name in self._troubles:
                self._restarted_at[job.name] = started
            ended_by = await self._run_once(job)
            if self._stopping:
                return
            if self._clock() - started >= _GOOD_WHILE_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            what = "returned" if ended_by is None else f"failed ({type(ended_by).__name__})"
            self._troubles[job.name] = f"{job.name} {what}"
            self._restarted_at[job.name] = None
            logger.error("%s %s; it starts again in %.1f s", job.name, what, pause, exc_info=ended_by)
            await self._sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _run_once(self, job: BackgroundJob) -> BaseException | None:
        """Return what a job ended with.

        Every exception is returned, SystemExit too: one that leaves a task ends the event loop.

        Raises:
            asyncio.CancelledError: this task was cancelled, and not only something within the job.
        """
        try:
            await job.run()
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return cancelled
        except BaseException as error:
            return error
        return None
