"""Runs what the outbox holds: claimed under a lease, retried with backoff, given up after 72 hours."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TypeAlias

from sqlalchemy.exc import SQLAlchemyError

from enable_with_segment.components.partner_call import PartnerFunctionFailed
from enable_with_segment.db.backoff import RetryPolicy
from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import outbox
from enable_with_segment.db.control.tables import OutboxEntry
from enable_with_segment.db.database import Database
from enable_with_segment.segment_api.errors import RateLimited, SegmentError, SegmentUnavailable

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[OutboxEntry], Awaitable[None]]
GivenUp: TypeAlias = Callable[[OutboxEntry, Exception], Awaitable[None]]

PATIENCE = timedelta(hours=72)
"""For how long work is retried: an outage of Segment or of our own store may last a weekend."""

_LEAST_ATTEMPTS = 8
"""Work is not given up before, however old it is: the service may have been stopped for days."""

_AFTER_OUTAGE = RetryPolicy(first=timedelta(seconds=2), ceiling=timedelta(minutes=10))
_AFTER_REFUSAL = RetryPolicy(first=timedelta(seconds=10), ceiling=timedelta(hours=1))
"""A refusal costs Segment's rate limit as much as work that can succeed, so it is repeated more rarely."""
_RATE_LIMIT_WINDOW = 60.0


class OutboxWorker:
    """Runs outbox entries through their handlers, each at least once.

    A handler must be idempotent: it runs again after a crash, and after a lease that ran out. It has nine tenths of
    the lease to finish.

    Args:
        handlers: by kind of entry; entries of other kinds are left to other workers.
        owner: this process, told apart from every other one.
        lease: how long an entry belongs to whoever claimed it.
        concurrency: entries worked on at the same time.
        poll: how often to look for entries that another process wrote.
        patience: an entry that still fails when it is this old is given up, whatever it failed with.
        attempts: an entry is given up after so many, too; ``None`` for no such limit.
        given_up: told about every entry that is given up, before it is closed.
        worked: called after each entry, which may have added entries for another worker.
        jitter: a number from 0 to 1.
    """

    def __init__(
        self,
        database: Database,
        handlers: Mapping[str, Handler],
        *,
        owner: str,
        clock: Clock = utc_now,
        lease: timedelta = timedelta(minutes=3),
        concurrency: int = 8,
        poll: timedelta = timedelta(seconds=5),
        patience: timedelta = PATIENCE,
        attempts: int | None = None,
        given_up: GivenUp | None = None,
        worked: Callable[[], None] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._handlers = handlers
        self._owner = owner
        self._clock = clock
        self._lease = lease
        self._poll = poll
        self._patience = patience
        self._attempts = attempts
        self._given_up = given_up
        self._worked = worked
        self._jitter = jitter
        self._slots = asyncio.Semaphore(concurrency)
        self._woken = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Look for due entries now: call it after a commit that wrote one."""
        self._woken.set()
        self._woken = asyncio.Event()

    def stop(self) -> None:
        """Let :meth:`run` return once the entries in hand are done."""
        self._stopping = True
        self.wake()

    async def run(self) -> None:
        """Work until :meth:`stop` or cancellation. A store that cannot be reached is tried again."""
        async with asyncio.TaskGroup() as tasks:
            freed = self._database.dialect != "sqlite"
            while not self._stopping:
                woken = self._woken
                try:
                    if not freed:
                        # On SQLite one process works, so a lease from before this start belongs to a dead one.
                        await self._free_leases()
                        freed = True
                    started = await self._start_next(tasks)
                except (SQLAlchemyError, OSError) as error:
                    logger.error("the outbox cannot be read (%s); trying again", type(error).__name__)  # noqa: TRY400  # a traceback would repeat every few seconds
                    started = False
                if not started:
                    await _wait(woken, self._poll)

    async def run_due(self) -> int:
        """Work until nothing is due any more; returns how many entries were run."""
        total = 0
        while True:
            count = 0
            async with asyncio.TaskGroup() as tasks:
                while await self._start_next(tasks):
                    count += 1
            if not count:
                return total
            total += count

    async def _free_leases(self) -> None:
        async with self._database.transaction() as session:
            await outbox.release_leases(session, kinds=self._handlers)

    async def _start_next(self, tasks: asyncio.TaskGroup) -> bool:
        await self._slots.acquire()
        try:
            async with self._database.transaction() as session:
                entry = await outbox.claim(
                    session, kinds=self._handlers, owner=self._owner, now=self._clock(), lease=self._lease
                )
        except BaseException:
            self._slots.release()
            raise
        if entry is None:
            self._slots.release()
            return False
        task = tasks.create_task(self._work(entry))
        task.add_done_callback(lambda _: self._slots.release())
        return True

    async def _work(self, entry: OutboxEntry) -> None:
        try:
            try:
                async with asyncio.timeout(self._lease.total_seconds() * 0.9):
                    await self._handlers[entry.kind](entry)
            except Exception as error:  # whatever a handler raises must not end the worker
                await self._failed(entry, error)
            else:
                await self._close(entry, error=None)
        except Exception:  # the store is away, or ``given_up`` failed: the entry is run again when its lease ends
            logger.exception("%s of %s stays leased", entry.kind, entry.install_id)
        if self._worked is not None:
            self._worked()

    async def _failed(self, entry: OutboxEntry, error: Exception) -> None:
        text = describe(error)
        withheld = isinstance(error, SegmentUnavailable) and error.withheld
        if not withheld and self._is_hopeless(entry):
            if self._given_up is not None:
                await self._given_up(entry, error)
            await self._close(entry, error=text)
            return
        delay = delay_after(error, entry.attempts, self._jitter())
        logger.warning(
            "%s of %s failed, attempt %d, next in %.0f s: %s",
            entry.kind,
            entry.install_id,
            entry.attempts,
            delay,
            text,
            exc_info=None if isinstance(error, SegmentError) else error,
        )
        async with self._database.transaction() as session:
            until = self._clock() + timedelta(seconds=delay)
            await outbox.postpone(session, entry.id, owner=self._owner, until=until, error=text, begins_anew=withheld)

    def _is_hopeless(self, entry: OutboxEntry) -> bool:
        """Return True if an entry that failed is given up: by its age, if it was tried often enough meanwhile."""
        if self._attempts is not None and entry.attempts >= self._attempts:
            return True
        return self._clock() - entry.created_at >= self._patience and entry.attempts >= _LEAST_ATTEMPTS

    async def _close(self, entry: OutboxEntry, *, error: str | None) -> None:
        async with self._database.transaction() as session:
            kept = await outbox.finish(session, entry.id, owner=self._owner, now=self._clock(), error=error)
        if not kept:
            logger.warning("%s of %s took longer than its lease; somebody else has it", entry.kind, entry.install_id)


def delay_after(error: Exception, attempts: int, jitter: float) -> float:
    """Return how many seconds to wait after a failure.

    Doubles from 2 s to 10 minutes; after a refusal of Segment's from 10 s to an hour. What Segment asks for is a lower
    bound, and after 429 so is the minute that its limit counts (contract 3.7).

    Args:
        attempts: how many were made, at least 1.
        jitter: from 0 to 1; shortens the wait by up to half, so that installs do not come back together.
    """
    refused = isinstance(error, SegmentError) and not isinstance(error, SegmentUnavailable)
    policy = _AFTER_REFUSAL if refused else _AFTER_OUTAGE
    delay = policy.delay(attempts, jitter=1 - jitter).total_seconds()
    floor = error.retry_after or 0.0 if isinstance(error, SegmentUnavailable) else 0.0
    if isinstance(error, RateLimited):
        floor = max(floor, _RATE_LIMIT_WINDOW)
    return max(delay, floor * (1 + jitter / 10))


def describe(error: Exception) -> str:
    """Return what to store about a failure. Only our own errors are known to hold no secret."""
    ours = isinstance(error, SegmentError | PartnerFunctionFailed)
    return f"{type(error).__name__}: {error}" if ours else type(error).__name__


async def _wait(event: asyncio.Event, longest: timedelta) -> None:
    try:
        async with asyncio.timeout(longest.total_seconds()):
            await event.wait()
    except TimeoutError:
        return
