"""An event log that is away now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from enable_with_segment.db.event_log.group_commit import Waiter
from enable_with_segment.db.event_log.log import EventLog
from enable_with_segment.db.event_log.records import (
    Appended,
    ClaimedEvent,
    ErasureReport,
    EventLogUnavailable,
    NewEvent,
    Predecessor,
    Settlement,
)
from tests.subscriptions.stepping_waiter import SteppingWaiter


class FlakyLog:
    """An event log that fails at chosen moments and hands everything else on to a real one.

    ``failing`` names what fails before anything happens; ``appended`` is the answer to an append, after its commit.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.failing: set[str] = set()
        self.renewed = asyncio.Event()

    def _check(self, method: str) -> None:
        if method in self.failing:
            raise EventLogUnavailable(f"{method} failed")

    async def append(self, event: NewEvent) -> Appended:
        self._check("append")
        appended = await self._log.append(event)
        self._check("appended")
        return appended

    def append_for(self, waiter: Waiter[Appended], event: NewEvent) -> None:
        self._check("append")
        self._log.append_for(SteppingWaiter(waiter, lambda: self._check("appended")), event)

    async def claim(self, components: Collection[str], **options: Any) -> list[ClaimedEvent]:
        self._check("claim")
        return await self._log.claim(components, **options)

    def begin(self, lease: str, event_ids: Sequence[int]) -> None:
        self._log.begin(lease, event_ids)

    async def predecessors(self, event_ids: Sequence[int]) -> Mapping[int, Sequence[Predecessor]]:
        self._check("predecessors")
        return await self._log.predecessors(event_ids)

    async def wake_successors(self, event_ids: Sequence[int], *, now: datetime) -> int:
        self._check("wake_successors")
        return await self._log.wake_successors(event_ids, now=now)

    async def settle_all(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        self._check("settle")
        return await self._log.settle_all(settlements)

    async def renew(self, lease: str, event_ids: Sequence[int], *, until: datetime) -> None:
        self.renewed.set()
        self._check("renew")
        await self._log.renew(lease, event_ids, until=until)

    async def release(self, lease: str, event_ids: Sequence[int]) -> None:
        self._check("release")
        await self._log.release(lease, event_ids)

    async def erase(
        self, event_id: int, lease: str, *, now: datetime, spares_deletes: bool = False
    ) -> ErasureReport | None:
        return await self._log.erase(event_id, lease, now=now, spares_deletes=spares_deletes)

    async def bring_forward(self, components: Collection[str], **options: Any) -> int:
        self._check("bring_forward")
        return await self._log.bring_forward(components, **options)

    async def due(self, components: Collection[str], *, now: datetime) -> int:
        return await self._log.due(components, now=now)
