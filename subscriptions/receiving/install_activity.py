"""Noting that an install's events arrive, so that it can be shown as *receiving*."""

from __future__ import annotations

import asyncio
import logging

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import installs
from enable_with_segment.db.database import Database

logger = logging.getLogger(__name__)


class InstallActivity:
    """Collects the installs that received something and writes them down at most once a second.

    The note is a convenience for people: if the process dies in between, the install's next event brings it back.
    """

    def __init__(self, database: Database, *, seconds: float = 1.0, clock: Clock = utc_now) -> None:
        self._database = database
        self._seconds = seconds
        self._clock = clock
        self._seen: set[str] = set()
        self._noted = asyncio.Event()

    def note(self, install_id: str | None) -> None:
        """Remember that an event arrived; a key without an install has nothing to note."""
        if install_id is not None:
            self._seen.add(install_id)
            self._noted.set()

    async def flush(self) -> int:
        """Write down what was noted; returns the number of installs."""
        seen, self._seen = self._seen, set()
        self._noted.clear()
        if not seen:
            return 0
        try:
            async with self._database.transaction() as session:
                for install_id in sorted(seen):
                    await installs.mark_receiving(session, install_id, now=self._clock())
        except Exception:
            self._seen |= seen
            raise
        return len(seen)

    async def run(self) -> None:
        """Write notes down until cancelled; what is left then is written last."""
        try:
            while True:
                await self._noted.wait()
                try:
                    await self.flush()
                except Exception as error:  # the control store is away; the notes are kept
                    logger.warning("Installs could not be marked as receiving (%s)", type(error).__name__)
                    self._noted.set()
                await asyncio.sleep(self._seconds)
        finally:
            await self.flush()
