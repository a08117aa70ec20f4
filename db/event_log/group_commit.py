"""Group commit: whatever waits at the same moment goes into one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from db.event_log.records import TooManyWaiting
from db.event_log.waiter import Waiter

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_MOST_ROUNDS = 16
"""How often the event loop may go round while a group is still growing."""


class GroupCommit(Generic[_Item, _Result]):
    """Collects single items into groups, one group at a time, and hands each waiter its own result.

    The first item is committed at once, with what the event loop can add to it without waiting; those that arrive
    while a commit runs wait for the next one. So a quiet service answers without delay, and a busy one commits once
    for many.

    Args:
        commit: writes a group in one transaction and returns one result for each item, in order; an exception as
            a result is raised for that item alone.
        largest: the most items in one group.
        most_waiting: the most items that may wait; more are refused, so that memory and answer times stay bounded.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[_Item]], Awaitable[Sequence[_Result | Exception]]],
        *,
        largest: int = 500,
        most_waiting: int = 10_000,
    ) -> None:
        self._commit = commit
        self._largest = largest
        self._most_waiting = most_waiting
        self._waiting: list[tuple[_Item, Waiter[_Result]]] = []
        self._task: asyncio.Task[None] | None = None

    def submit(self, item: _Item) -> asyncio.Future[_Result]:
        """Return what will hold the item's result once its group is committed, or whatever ``commit`` raised.

        Raises:
            TooManyWaiting: too many items are waiting.
        """
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self.submit_for(future, item)
        return future

    def submit_for(self, waiter: Waiter[_Result], item: _Item) -> None:
        """Tell ``waiter`` the item's result once its group is committed, or whatever ``commit`` raised.

        Raises:
            TooManyWaiting: too many items are waiting; then the waiter is told nothing.
        """
        if len(self._waiting) >= self._most_waiting:
            raise TooManyWaiting("too many events are waiting to be stored")
        self._waiting.append((item, waiter))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Wait until everything that was submitted is committed or refused."""
        while self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    async def _until_no_more_come(self) -> None:
        """Go on collecting as long as each round of the event loop brings more, within bounds."""
        before = 0
        for _ in range(_MOST_ROUNDS):
            if not before < len(self._waiting) < self._largest:
                return
            before = len(self._waiting)
            await asyncio.sleep(0)

    async def _run(self) -> None:
        while self._waiting:
            await self._until_no_more_come()
            group, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
            # A waiter that was cancelled meanwhile (a client that hung up) needs no commit.
            group = [(item, waiter) for item, waiter in group if not waiter.done()]
            if not group:
                continue
            try:
                results = await self._commit([item for item, _ in group])
            except Exception as error:
                for _, waiter in group:
                    if not waiter.done():
                        waiter.set_exception(error)
            except BaseException:
                for _, waiter in group:
                    waiter.cancel()
                raise
            else:
                for (_, waiter), result in zip(group, results, strict=True):
                    if waiter.done():
                        continue
                    if isinstance(result, Exception):
                        waiter.set_exception(result)
                    else:
                        waiter.set_result(result)
