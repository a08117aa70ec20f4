"""Answers that are given once everything that had arrived on any connection has been read."""

from __future__ import annotations

import asyncio
import logging
from typing import ClassVar, Protocol
from weakref import WeakKeyDictionary

logger = logging.getLogger(__name__)


class Debtor(Protocol):
    """Who owes an answer."""

    def pay(self) -> None:
        """Give the answer that is owed, if one still is."""
        ...


class PendingAnswers:
    """Those of one event loop.

    An answer calls forth the next delivery. If that were read at once as well, a loop that has thousands of connections
    to read from would get round neither to the others nor to what it has already let in.
    """

    _of_loops: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, PendingAnswers]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._debtors: list[Debtor] = []

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> PendingAnswers:
        """Return those of a loop."""
        owed = cls._of_loops.get(loop)
        if owed is None:
            owed = cls._of_loops[loop] = cls()
        return owed

    def add(self, debtor: Debtor, loop: asyncio.AbstractEventLoop) -> None:
        """Have ``debtor`` pay after all that is there has been read; one call of the loop is enough for all of them."""
        if not self._debtors:
            loop.call_soon(self._pay)
        self._debtors.append(debtor)

    def _pay(self) -> None:
        debtors, self._debtors = self._debtors, []
        for debtor in debtors:
            try:
                debtor.pay()
            except Exception:  # the others wait for theirs
                logger.exception("An answer could not be given")
