"""The end of a deletion: noted, wiped from the event log, noted again with what was erased where, and settled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from enable_with_segment.db.control import audit
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.group_commit import GroupCommit
from enable_with_segment.db.event_log.log import EventLog
from enable_with_segment.db.event_log.records import ClaimedEvent, ErasureReport, Settlement
from enable_with_segment.db.event_log.states import HandlerState
from enable_with_segment.subscriptions.archive.erasure import ERASED, REQUESTED

logger = logging.getLogger(__name__)

_NOTES_AT_ONCE = 8
"""Whose log is wiped next, all in one go on SQLite: not so many that others wait long for an answer."""

_WIPES_AT_ONCE = 4
"""Each holds a connection, and those of one account wait for each other: some have to be left for everybody else."""


@dataclass(frozen=True, slots=True)
class _Note:
    """An entry of the audit."""

    actor: str
    action: str
    event_id: int
    at: datetime
    detail: dict[str, Any]


@dataclass(slots=True)
class Erasure:
    """A deletion that every handler has finished with, and how far its end has come.

    Attributes:
        report: what was wiped, once it was.
        is_noted: whether that is in the audit.
    """

    settlement: Settlement
    claimed: ClaimedEvent
    report: ErasureReport | None = None
    is_noted: bool = False


class Erasures:
    """Ends deletions, several at the same time: their notes go into the audit together, which waits for the disk."""

    def __init__(self, event_log: EventLog, database: Database) -> None:
        self._log = event_log
        self._database = database
        self._wiping = asyncio.Semaphore(_WIPES_AT_ONCE)
        self._notes: GroupCommit[_Note, None] = GroupCommit(self._write, largest=_NOTES_AT_ONCE)

    async def end(self, erasure: Erasure) -> bool:
        """Note a deletion, wipe the log, note what was wiped, and settle it; asked again, it goes on where it was.

        Each comes before the next: once too often is better than never.

        Returns:
            Whether the event was still held.

        Raises:
            EventLogUnavailable, SQLAlchemyError, OSError: one of the stores cannot be reached.
        """
        settlement, claimed = erasure.settlement, erasure.claimed
        whose = {"account": claimed.account, "component": claimed.component}
        report = erasure.report
        if report is None:
            await self._notes.submit(_Note("segment", REQUESTED, claimed.id, settlement.at, whose))
            async with self._wiping:
                report = await self._log.erase(
                    claimed.id,
                    settlement.lease,
                    now=settlement.at,
                    spares_deletes=any(result.state is not HandlerState.DONE for result in claimed.finished),
                )
            if report is None:
                return False
            erasure.report = report
            merged, events = report.merged_ids, report.events
            logger.info("Deletion %d is done: %d merged ids, %d stored events wiped", claimed.id, merged, events)
        if not erasure.is_noted:
            detail = {**whose, **_where(claimed, report)}
            await self._notes.submit(_Note("service", ERASED, claimed.id, settlement.at, detail))
            erasure.is_noted = True
        (is_settled,) = await self._log.settle_all([replace(settlement, ends_deletion=True)])
        return is_settled

    async def close(self) -> None:
        """Wait until what was noted is stored or refused."""
        await self._notes.close()

    async def _write(self, notes: Sequence[_Note]) -> Sequence[None]:
        async with self._database.transaction() as session:
            for note in notes:
                await audit.add(
                    session,
                    actor=note.actor,
                    action=note.action,
                    subject=f"event {note.event_id}",
                    now=note.at,
                    detail=note.detail,
                )
        return [None] * len(notes)


def _where(claimed: ClaimedEvent, report: ErasureReport) -> dict[str, Any]:
    """Tell what was erased where; only numbers and names of handlers."""
    return {
        "events": report.events,
        "merged_ids": report.merged_ids,
        "handlers": {result.handler: result.state.value for result in claimed.finished},
    }
