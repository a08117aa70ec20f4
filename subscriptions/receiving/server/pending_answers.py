"""Answers that are written once everything that has arrived on any connection is read."""

from __future__ import annotations

import asyncio
import logging
from typing import ClassVar, Protocol
from weakref import WeakKeyDictionary

logger = logging.getLogger(__name__)

_NEVER_AWAITED = asyncio.Event()


class HasPendingAnswer(Protocol):
    """A connection with a pending answer."""

    def answer_pending(self) -> None:
        """Write the pending answer, if there still is one."""
        ...


class PendingAnswers:
    """Those of one event loop.

    An answer triggers the next delivery. If a loop with thousands of connections read that at once as well, it would
    reach neither the other connections nor the deliveries in flight.
    """

    _of_loops: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, PendingAnswers]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._connections: list[HasPendingAnswer] = []

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> PendingAnswers:
        """Return those of a loop."""
        found = cls._of_loops.get(loop)
        if found is None:
            found = cls._of_loops[loop] = cls()
        return found

    def add(self, connection: HasPendingAnswer, loop: asyncio.AbstractEventLoop) -> None:
        """Answer on a connection after everything that has arrived is read; one call of the loop serves all of them."""
        if not self._connections:
            loop.call_soon(self._answer)
        self._connections.append(connection)

    def _answer(self) -> None:
        connections, self._connections = self._connections, []
        for connection in connections:
            try:
                connection.answer_pending()
            except Exception:  # the others wait for theirs
                logger.exception("An answer could not be written")


class InFlight:
    """Stands in for a request cycle of uvicorn while the fast path's answer is pending.

    It holds no reference to its connection, so that both are freed, with the key in the headers, once that is closed.
    """

    __slots__ = ("disconnected", "keep_alive", "response_complete")
    message_event = _NEVER_AWAITED

    def __init__(self) -> None:
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False
