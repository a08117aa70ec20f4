"""Group commit: whatever waits at the same moment goes into one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from enable_with_segment.db.event_log.bug_log import without_frames
from enable_with_segment.db.event_log.records import EventLogUnavailable, TooManyWaiting

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Result_contra = TypeVar("_Result_contra", contravariant=True)

_MOST_ROUNDS = 16
"""How often the event loop may go round while a group is still growing."""
_ENOUGH = 16
"""So many are a group, whoever else may come: what a commit costs by itself is small for each of them."""
_FEW = 256
"""Of so many that wait nobody looks who has gone."""


class Waiter(Protocol[_Result_contra]):
    """Told once how it went. An ``asyncio.Future`` is one; what needs no task to wait can be one at less cost.

    None of its methods raises, and none waits: others are told after it.
    """

    def done(self) -> bool:
        """Tell whether nobody waits any more; then nothing need be done."""
        ...

    def set_result(self, result: _Result_contra, /) -> object:
        """Take the outcome."""
        ...

    def set_exception(self, error: Exception, /) -> object:
        """Take what was in the way."""
        ...

    def cancel(self) -> object:
        """Take note that there will be no outcome."""
        ...


class GroupCommit(Generic[_Item, _Result]):
    """Collects single items into groups, one group at a time, and hands each waiter its own result.

    The first item is committed at once, with what the event loop can add to it without waiting; those that arrive
    while a commit runs wait for the next one. So a quiet service answers without delay, and a busy one commits once
    for many.

    Senders that wait for their answers would all be in one group, and this process would have nothing to do while
    the store commits it. So a group begins with half of what is in hand, and the next one is on its way before those
    of the last are told: the store commits one half while the other is answered and comes back with something new.

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
        self._look_at = min(_FEW, most_waiting)
        self._in_hand = 0
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
        if len(self._waiting) >= self._look_at:
            self._make_room()
        self._waiting.append((item, waiter))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def _make_room(self) -> None:
        """Let go of items for which nobody waits any more, and look again when there are twice as many as are left.

        While the store hangs those who wait are answered that it does, and others come.
        """
        self._waiting = [member for member in self._waiting if not member[1].done()]
        if len(self._waiting) >= self._most_waiting:
            raise TooManyWaiting("too many events are waiting to be stored")
        self._look_later()

    def _look_later(self) -> None:
        self._look_at = min(max(_FEW, 2 * len(self._waiting)), self._most_waiting)

    async def close(self) -> None:
        """Wait until everything that was submitted is committed or refused."""
        while self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    @property
    def _enough(self) -> int:
        return min(max(_ENOUGH, self._in_hand // 2), self._largest)

    async def _until_enough_came(self) -> None:
        """Go on collecting as long as each round of the event loop brings more, within bounds."""
        before = 0
        for _ in range(_MOST_ROUNDS):
            if not before < len(self._waiting) < self._enough:
                return
            before = len(self._waiting)
            await asyncio.sleep(0)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._until_enough_came()
                group = self._begin()
                while group is not None:
                    await group.end()
                    self._in_hand = len(group) + len(self._waiting)
                    following = self._begin() if len(self._waiting) >= self._enough // 2 else None
                    if following is None:
                        group.tell()
                    else:  # after the first step of the next commit, which sends what is to be stored
                        asyncio.get_running_loop().call_soon(group.tell)
                    group = following
        except BaseException:  # who waits behind a group that was cancelled would wait for good
            waiting, self._waiting = self._waiting, []
            for _, waiter in waiting:
                waiter.cancel()
            raise

    def _begin(self) -> _Group[_Item, _Result] | None:
        """Begin to commit what waits; ``None`` when nobody waits for it any more."""
        members, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
        self._look_later()
        # A waiter that was cancelled meanwhile (a client that hung up) needs no commit.
        members = [(item, waiter) for item, waiter in members if not waiter.done()]
        return _Group(self._commit([item for item, _ in members]), members) if members else None


class _Group(Generic[_Item, _Result]):
    """Items that are being committed, and who waits for them."""

    def __init__(
        self, commit: Awaitable[Sequence[_Result | Exception]], members: Sequence[tuple[_Item, Waiter[_Result]]]
    ) -> None:
        self._commit = asyncio.ensure_future(commit)
        self._members = members
        self._outcomes: Sequence[_Result | Exception] = ()

    def __len__(self) -> int:
        return len(self._members)

    async def end(self) -> None:
        """Wait until the commit is over; who is cancelled meanwhile cancels it, and everybody who waits for it."""
        try:
            outcomes = await self._commit
        except Exception as error:
            self._outcomes = [error] * len(self)
        except BaseException as error:
            if not _broke_off(error):
                for _, waiter in self._members:
                    waiter.cancel()
                raise
            self._outcomes = [EventLogUnavailable("the commit was broken off")] * len(self)
        else:
            if len(outcomes) != len(self):
                wrong = RuntimeError(f"{len(self)} items were committed, and {len(outcomes)} have a result")
                outcomes = [wrong] * len(self)
            self._outcomes = outcomes

    def tell(self) -> None:
        """Hand each waiter its own outcome, and keep none: an error leads back here by its frames."""
        outcomes, self._outcomes = self._outcomes, ()
        del self._commit
        for (_, waiter), outcome in zip(self._members, outcomes, strict=True):
            try:
                if isinstance(outcome, Exception):
                    if isinstance(outcome, EventLogUnavailable):  # of a bug the place has to be known
                        without_frames(outcome)
                    if not waiter.done():
                        waiter.set_exception(outcome)
                elif not waiter.done():
                    waiter.set_result(outcome)
            except Exception:
                logger.exception("Somebody could not be told what became of an event; the others of its group are")


def _broke_off(error: BaseException) -> bool:
    """Whether the driver cancelled what it was doing, and nobody this task."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() == 0
