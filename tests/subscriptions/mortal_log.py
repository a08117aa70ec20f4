"""An event log of a process that dies."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from db.event_log.log import EventLog
from db.event_log.records import (
    Appended,
    ClaimedEvent,
    ErasureReport,
    EventLogUnavailable,
    NewEvent,
    Predecessor,
    Settlement,
)
from db.event_log.waiter import Waiter
from tests.subscriptions.stepping_waiter import SteppingWaiter


class ProcessDied(Exception):
    """The process is gone: nothing that it does from here on has an effect."""


class MortalLog:
    """An event log as seen by a process that dies at the n-th await."""

    def __init__(self, log: EventLog, dies_after: int | None) -> None:
        self._log = log
        self._left = dies_after
        self.died = asyncio.Event()

    async def step(self) -> None:
        """Come past an await: die here, if it is the one."""
        self._come_past()

    def _come_past(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self.died.set()
        if self.died.is_set():
            raise EventLogUnavailable("the process is dead") from ProcessDied()

    async def append(self, event: NewEvent) -> Appended:
        await self.step()
        appended = await self._log.append(event)
        await self.step()
        return appended

    def append_for(self, waiter: Waiter[Appended], event: NewEvent) -> None:
        self._come_past()
        self._log.append_for(SteppingWaiter(waiter, self._come_past), event)

    async def claim(self, components: Collection[str], **options: Any) -> list[ClaimedEvent]:
        await self.step()
        claimed = await self._log.claim(components, **options)
        await self.step()
        return claimed

    def begin(self, lease: str, event_ids: Sequence[int]) -> None:
        self._come_past()
        self._log.begin(lease, event_ids)

    async def predecessors(self, event_ids: Sequence[int]) -> Mapping[int, Sequence[Predecessor]]:
        await self.step()
        return await self._log.predecessors(event_ids)

    async def settle_all(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        await self.step()
        settled = await self._log.settle_all(settlements)
        await self.step()
        return settled

    async def renew(self, lease: str, event_ids: Sequence[int], *, until: datetime) -> None:
        await self.step()
        await self._log.renew(lease, event_ids, until=until)

    async def release(self, lease: str, event_ids: Sequence[int]) -> None:
        await self.step()
        await self._log.release(lease, event_ids)

    async def erase(self, settlement: Settlement) -> ErasureReport | None:
        await self.step()
        return await self._log.erase(settlement)

    async def bring_forward(self, components: Collection[str], **options: Any) -> int:
        await self.step()
        return await self._log.bring_forward(components, **options)

    async def due(self, components: Collection[str], *, now: datetime) -> int:
        return await self._log.due(components, now=now)
