"""Stores how attempts ended; for a finished delete that includes wiping the person from the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from db.control import audit
from db.database import Database
from db.event_log.log import EventLog
from db.event_log.records import ClaimedEvent, ErasureReport, EventLogUnavailable, Settlement
from db.event_log.tables import EventState
from subscriptions.archive.erasure import ERASED, REQUESTED

logger = logging.getLogger(__name__)


class Settler:
    """Settles claimed events, and notes deletions in the audit.

    While a store is away its results are kept and tried again for a while: what a handler did was done, and the event
    need not be handled twice only because its database was restarted.

    Args:
        waits: seconds between the attempts to store a result.
    """

    def __init__(self, event_log: EventLog, database: Database, *, waits: Sequence[float]) -> None:
        self._log = event_log
        self._database = database
        self._waits = waits

    async def settle(self, settlement: Settlement, claimed: ClaimedEvent) -> bool:
        """Store the end of an attempt; tells whether that could be done. It raises nothing but a cancellation."""
        if settlement.state is EventState.DEAD_LETTER:
            logger.warning("Event %d is a dead letter: %s", claimed.id, settlement.error)
        try:
            for wait in self._waits:
                try:
                    return await self._store(settlement, claimed)
                except (EventLogUnavailable, SQLAlchemyError, OSError):
                    await asyncio.sleep(wait)
            return await self._store(settlement, claimed)
        except Exception as error:  # the lease will end, and the event is handled again
            logger.warning("The result of event %d could not be stored (%s)", claimed.id, type(error).__name__)
        return False

    async def _store(self, settlement: Settlement, claimed: ClaimedEvent) -> bool:
        if claimed.type == "delete" and settlement.state is EventState.HANDLED:
            return await self._erase(settlement, claimed)
        if await self._log.settle(settlement):
            return True
        logger.warning("Event %d was taken over by somebody else; this attempt is not recorded", claimed.id)
        return False

    async def _erase(self, settlement: Settlement, claimed: ClaimedEvent) -> bool:
        """Note a finished deletion, then wipe the log. The note comes first: once too often is better than never."""
        async with self._database.transaction() as session:
            await audit.add(
                session,
                actor="segment",
                action=REQUESTED,
                subject=f"event {claimed.id}",
                now=settlement.at,
                detail={"account": claimed.account, "component": claimed.component},
            )
        report = await self._log.erase(settlement)
        if report is None:
            return False
        logger.info(
            "Deletion %d is done: %d merged ids, %d stored events wiped", claimed.id, report.merged_ids, report.events
        )
        await self._note_erased(settlement, claimed, report)
        return True

    async def _note_erased(self, settlement: Settlement, claimed: ClaimedEvent, report: ErasureReport) -> None:
        """Write down what was erased where; only numbers and names of handlers."""
        results = (*claimed.finished, *settlement.results)
        detail = {
            "account": claimed.account,
            "component": claimed.component,
            "events": report.events,
            "merged_ids": report.merged_ids,
            "handlers": {result.handler: result.state.value for result in results},
        }
        async with self._database.transaction() as session:
            await audit.add(
                session, actor="service", action=ERASED, subject=f"event {claimed.id}", now=settlement.at, detail=detail
            )
