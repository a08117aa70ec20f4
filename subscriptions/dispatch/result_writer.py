"""Stores how attempts ended; for a finished delete that includes wiping the person from the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import EventLog
from enable_with_segment.db.event_log.records import ClaimedEvent, EventLogUnavailable, Settlement
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.subscriptions.dispatch.erasures import Erasure, Erasures

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_MOST_NAMED = 10


class ResultWriter:
    """Settles claimed events, and notes deletions in the audit.

    While a store is away its results are kept and tried again for a while: what a handler did was done, and the event
    need not be handled twice only because its database was restarted.

    Args:
        waits: seconds between the attempts to store a result.
    """

    def __init__(self, event_log: EventLog, database: Database, *, waits: Sequence[float]) -> None:
        self._log = event_log
        self._erasures = Erasures(event_log, database)
        self._waits = waits

    async def settle(self, ended: Sequence[tuple[Settlement, ClaimedEvent]]) -> list[bool]:
        """Store how attempts ended; tells of each whether that could be done. It raises nothing but a cancellation."""
        together: list[Settlement] = []
        erasures: list[tuple[Settlement, ClaimedEvent]] = []
        for settlement, claimed in ended:
            if settlement.state is EventState.DEAD_LETTER:
                logger.warning("Event %d is a dead letter: %s", claimed.id, settlement.error)
            if _ends_a_deletion(settlement, claimed):
                erasures.append((settlement, claimed))
            else:
                together.append(settlement)
        # Side by side: a deletion waits for the audit as well, and other results need not wait for that.
        erasing = asyncio.gather(*(self._erase_one(settlement, claimed) for settlement, claimed in erasures))
        stored, erased = await asyncio.gather(self._store(together), erasing)
        ids = [settlement.event_id for settlement in (*together, *(settlement for settlement, _ in erasures))]
        answers = dict(zip(ids, (*stored, *erased), strict=True))
        return [answers[claimed.id] for _, claimed in ended]

    async def close(self) -> None:
        """Wait until what was begun is stored or refused."""
        await self._erasures.close()

    async def _store(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        if not settlements:
            return ()
        stored, is_first_try = await self._persistently(lambda: self._log.settle_all(settlements), settlements)
        if stored is None:
            return [False] * len(settlements)
        refused = [one for one, is_stored in zip(settlements, stored, strict=True) if not is_stored]
        if refused:
            _say_refused(refused, is_first_try=is_first_try)
        return stored

    async def _erase_one(self, settlement: Settlement, claimed: ClaimedEvent) -> bool:
        """Note what the handlers did, which takes no time, and then wipe the log, which does."""
        if settlement.results:
            noted = replace(settlement, state=EventState.PENDING, keeps_lease=True)
            if not all(await self._store([noted])):
                return False
            claimed = replace(claimed, finished=(*claimed.finished, *settlement.results))
            settlement = replace(settlement, results=(), attempted=False)
        erasure = Erasure(settlement, claimed)
        was_held, is_first_try = await self._persistently(lambda: self._erasures.end(erasure), [settlement])
        if was_held is False:
            _say_refused([settlement], is_first_try=is_first_try)
        return was_held is True

    async def _persistently(
        self, store: Callable[[], Awaitable[_Result]], settlements: Sequence[Settlement]
    ) -> tuple[_Result | None, bool]:
        """Store results, again and again for a while; ``None`` when it could not be done.

        Returns:
            What the store answered, and whether it did at the first try.
        """
        is_first_try = True
        try:
            for wait in self._waits:
                try:
                    return await store(), is_first_try
                except (EventLogUnavailable, SQLAlchemyError, OSError):
                    is_first_try = False
                    await asyncio.sleep(wait)
            return await store(), is_first_try
        except Exception as error:  # the leases will end, and the events are handled again
            count, ids, name = len(settlements), _ids(settlements), type(error).__name__
            logger.warning("The results of %d events (%s) could not be stored (%s)", count, ids, name)
        return None, is_first_try


def _ends_a_deletion(settlement: Settlement, claimed: ClaimedEvent) -> bool:
    """Tell whether stored events are to be wiped now: after a delete, and after an alias that came too late for it.

    Also when no handler had anything to erase: what is stored here is the person's all the same.
    """
    if claimed.type == "alias":
        return claimed.suppressed and settlement.state is EventState.SUPPRESSED
    return claimed.type == "delete" and settlement.state in (EventState.HANDLED, EventState.UNSUPPORTED)


def _say_refused(settlements: Sequence[Settlement], *, is_first_try: bool) -> None:
    """Tell what it means that results are not taken: their leases are not the ones that the log knows."""
    count, ids = len(settlements), _ids(settlements)
    if is_first_try:
        logger.warning(
            "%d events (%s) were taken over by somebody else, or have results that cannot be stored:"
            " these attempts are not recorded",
            count,
            ids,
        )
    else:
        # The connection can be lost after the commit and before its answer; then there is no lease left to settle.
        logger.warning(
            "The results of %d events (%s) were stored already by a try whose answer was lost,"
            " or somebody else has taken the events over",
            count,
            ids,
        )


def _ids(settlements: Sequence[Settlement]) -> str:
    named = [str(settlement.event_id) for settlement in settlements[:_MOST_NAMED]]
    return ", ".join(named if len(settlements) <= _MOST_NAMED else [*named, "…"])
