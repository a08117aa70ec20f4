"""Calls a function of the partner's, such that nothing it does ends our task, our job or our process.

Handlers have a queue each and are called by ``subscriptions.dispatch``; every other function goes through here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_GRACE_SECONDS = 1.0
"""How long a function may take to end after it was cancelled; then it is left to itself."""

_MOST_STUCK_THREADS = 8


class PartnerFunctionFailed(Exception):
    """A function of the partner's raised, or took too long; the cause is what it raised.

    Attributes:
        name: the setting or the decorator it came by, and the function's own name.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} {problem}")
        self.name = name


class _Ending(Generic[_T]):
    """What a function returned or raised. It is carried as a value: a SystemExit that leaves a task ends the loop."""

    def __init__(self, value: _T | None = None, error: BaseException | None = None) -> None:
        self._value = value
        self._error = error

    def value(self, name: str) -> _T:
        if self._error is not None:
            raise PartnerFunctionFailed(name, f"raised {type(self._error).__name__}") from self._error
        return self._value  # type: ignore[return-value]  # None only where _T has it


async def call_partner(name: str, function: Callable[[], Awaitable[_T]], *, seconds: float) -> _T:
    """Await a function of the partner's and return what it returns.

    It runs in a task of its own. One that ignores its cancellation is left behind, so that the caller goes on.

    Args:
        name: how logs name it, such as ``PARTNER_SESSION (acme.web:signed_in)``.
        seconds: how long it may take.

    Raises:
        PartnerFunctionFailed: it raised anything, or took longer.
        asyncio.CancelledError: the caller was cancelled, and nothing else.
    """
    task = asyncio.create_task(_ended(function), name=name)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result().value(name)
    finally:
        task.cancel()
    await asyncio.wait({task}, timeout=_GRACE_SECONDS)
    if not task.done():
        logger.error("%s does not end when it is cancelled; it is left running", name)
    raise PartnerFunctionFailed(name, f"took longer than {seconds:g} s")


async def _ended(function: Callable[[], Awaitable[_T]]) -> _Ending[_T]:
    try:
        return _Ending(await function())
    except BaseException as error:
        return _Ending(error=error)


class PartnerThreads:
    """Calls a plain function of the partner's in a thread, because one that waits would hold up the event loop.

    A thread cannot be cut off. So at most eight that are stuck are waited for by nobody; from then on a call fails at
    once, until one of them comes back.

    Args:
        name: as for :func:`call_partner`.
        seconds: how long a call may take.
    """

    def __init__(self, name: str, *, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._running = 0

    async def call(self, function: Callable[[], _T]) -> _T:
        """Call the function and return what it returns.

        Raises:
            PartnerFunctionFailed: it raised anything, took longer, or too many earlier calls are stuck.
        """
        if self._running >= _MOST_STUCK_THREADS:
            raise PartnerFunctionFailed(self._name, f"was not called: {self._running} earlier calls have not ended")
        loop = asyncio.get_running_loop()
        ending: asyncio.Future[_Ending[_T]] = loop.create_future()

        def came_back(found: _Ending[_T]) -> None:
            self._running -= 1
            if not ending.done():
                ending.set_result(found)

        def run() -> None:
            try:
                found = _Ending(function())
            except BaseException as error:
                found = _Ending(error=error)
            try:
                loop.call_soon_threadsafe(came_back, found)
            except RuntimeError:
                logger.warning("%s ended after the service had stopped", self._name)

        self._running += 1
        threading.Thread(target=run, name=self._name, daemon=True).start()
        try:
            async with asyncio.timeout(self._seconds):
                found = await ending
        except TimeoutError:
            raise PartnerFunctionFailed(self._name, f"took longer than {self._seconds:g} s") from None
        return found.value(self._name)
