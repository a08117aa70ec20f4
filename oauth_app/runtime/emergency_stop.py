"""The emergency stop: while it is engaged no process calls Segment, accepts events or starts a connection (TK-16).

The stop is a row of the control store. What a process knows of it is never older than nine tenths of a second, so it
takes hold everywhere within one second, and costs two or three small queries a second, however many events come. A
store that cannot be read means that we don't know: then nothing is accepted either, as with any look-up of a key.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from enable_with_segment.db.control import audit, emergency_stop
from enable_with_segment.db.database import Database
from enable_with_segment.segment_api.errors import NotSent

logger = logging.getLogger(__name__)

MonotonicClock: TypeAlias = Callable[[], float]

REREAD_AFTER_SECONDS = 0.4
OLDEST_SECONDS = 0.9


class SegmentUseStopped(NotSent):
    """The operator stopped all use of Segment; nothing was sent."""

    withheld = True


class EmergencyStopSwitch:
    """Tells whether the emergency stop is engaged; what it says is never older than nine tenths of a second."""

    def __init__(self, database: Database, *, clock: MonotonicClock = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._read_at: float | None = None
        self._engaged = False
        self._reading: asyncio.Task[bool] | None = None

    def known(self) -> bool | None:
        """Tell without waiting whether the stop is engaged; ``None`` when that has to be asked first."""
        if self._read_at is None:
            return None
        # While somebody reads it anew, what is known may get a little older.
        oldest = REREAD_AFTER_SECONDS if self._reading is None or self._reading.done() else OLDEST_SECONDS
        return self._engaged if self._clock() - self._read_at < oldest else None

    async def engaged(self) -> bool:
        """Tell whether the stop is engaged.

        Mostly nobody waits: the row is read again in the background before what is known gets too old.

        Raises:
            SQLAlchemyError, OSError: the store cannot be read. A driver may let errors of its own through.
        """
        known = self.known()
        if known is not None:
            return known
        age = math.inf if self._read_at is None else self._clock() - self._read_at
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(_take_note)
        if age < OLDEST_SECONDS:
            return self._engaged
        # One caller that gives up must not cancel the query that the others wait for.
        return await asyncio.shield(self._reading)

    async def refuse_use_of_segment(self) -> None:
        """Let a request to Segment go on, or not.

        Raises:
            SegmentUseStopped: the stop is engaged, or nobody can tell.
        """
        try:
            engaged = await self.engaged()
        except Exception as error:
            raise SegmentUseStopped("the emergency stop cannot be read") from error
        if engaged:
            raise SegmentUseStopped("the operator has stopped all use of Segment")

    async def close(self) -> None:
        """Wait for a query that is still on its way, before the store is closed."""
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def _read(self) -> bool:
        asked_at = self._clock()
        try:
            stop = await emergency_stop.read(self._database)
        except asyncio.CancelledError:  # those who wait for it are not to be cancelled with it
            raise ConnectionError("the query was broken off") from None
        engaged = stop is not None
        if engaged is not self._engaged:
            logger.warning("emergency stop %s", "engaged: " + stop.reason if stop is not None else "lifted")
        self._engaged, self._read_at = engaged, asked_at
        return engaged


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasing stop destroyed."""

    tokens: int
    api_keys: int


async def stop_everything(database: Database, *, actor: str, reason: str, now: datetime) -> bool:
    """Engage the stop; tells whether the service was running before."""
    async with database.transaction() as session:
        engaged = await emergency_stop.engage(session, actor=actor, reason=reason, now=now)
        if engaged:
            await audit.add(session, actor=actor, action="panic.engage", subject="service", reason=reason, now=now)
    return engaged


async def lift_stop(database: Database, *, actor: str, reason: str, now: datetime) -> bool:
    """Let the service run again; tells whether it was stopped."""
    async with database.transaction() as session:
        lifted = await emergency_stop.lift(session)
        if lifted:
            await audit.add(session, actor=actor, action="panic.lift", subject="service", reason=reason, now=now)
    return lifted


async def erase_everything(database: Database, *, actor: str, reason: str, now: datetime) -> Erased:
    """Destroy every install token and API key; cannot be undone. Engage the stop first."""
    async with database.transaction() as session:
        erased = Erased(*await emergency_stop.erase_secrets(session, now=now))
        await audit.add(
            session,
            actor=actor,
            action="panic.erase",
            subject="service",
            reason=reason,
            now=now,
            detail={"tokens": erased.tokens, "api_keys": erased.api_keys},
        )
    return erased


def _take_note(reading: asyncio.Task[bool]) -> None:
    """Look at a failed query even if nobody waited for it; whoever asks next tries again, and is told."""
    if not reading.cancelled() and (error := reading.exception()) is not None:
        logger.warning("the emergency stop could not be read (%s)", type(error).__name__)
