"""Replay: events of the log that were finished with are handed to the handlers once more.

It works on the stores alone, so it may run in a process of its own, beside the one that serves. Only so many events a
second are let go, and none while live ones are behind: due for longer than a moment. (Waiting until nothing at all is
due would be waiting for ever where there is always something.) A component that is paused gets none.

Handlers see the event as it was received: what Segment did not mark as a replay (``event.is_replay``, contract 5.11) is
not marked by us either.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from enable_with_segment.components.handler import Handler
from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import audit, pauses, replays
from enable_with_segment.db.control.tables import Replay
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.records import EventFilter, EventRecord
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.db.identifiers import new_id
from enable_with_segment.subscriptions.archive.dead_letter_groups import group_of

_PAGE = 1_000
_PORTIONS_PER_SECOND = 5
_YIELD_SECONDS = 0.2
_BEHIND = timedelta(seconds=2)
"""For how long live events are due when a replay makes way for them."""

#: What may be handled again. Pending events are on their way, and deletes and erased people stay as they are.
REPLAYABLE = (EventState.HANDLED, EventState.UNSUPPORTED, EventState.DEAD_LETTER)


class ReplayNotFound(Exception):
    """There is no such replay, or it is done."""


class HandlerGone(Exception):
    """The component has no handler of the name that a replay is for."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the replay is for the handler '{key}', which the component does not have")


class ComponentPaused(Exception):
    """Nothing of the component is handed out, so a replay would only wait; the text says what to do."""

    def __init__(self, component: str) -> None:
        super().__init__(f"{component} is paused, so nothing is handed out; run: enable-with-segment events resume")


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """Which events are to be handled again, by whom and how fast.

    ``handler`` is a handler's key: only what that one takes is handed out, and no other is called. ``group`` is the id
    of a dead-letter group. ``rate`` is in events per second.
    """

    wanted: EventFilter
    handler: str | None = None
    group: str | None = None
    rate: int = 200

    def takes(self, record: EventRecord) -> bool:
        """Tell whether an event that the filter let through is to be handled again."""
        if record.state not in REPLAYABLE or record.type == "delete" or record.erased:
            return False
        if self.group is None:
            return True
        dead = record.state is EventState.DEAD_LETTER
        return dead and group_of(record) == self.group


@dataclass(frozen=True, slots=True)
class ReplayCounts:
    """What a replay would do: events by type, state and account. ``left_out`` match the filter but stay as they are."""

    events: int = 0
    left_out: int = 0
    types: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, int] = field(default_factory=dict)
    accounts: Mapping[str, int] = field(default_factory=dict)


class Replayer:
    """Runs replays against an event log.

    Args:
        handlers: those of the component; needed for replays that are for one of them.
        sleep: how it waits, in seconds.
    """

    def __init__(
        self,
        event_log: StoredEventLog,
        database: Database,
        *,
        handlers: Sequence[Handler] = (),
        clock: Clock = utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._log = event_log
        self._database = database
        self._handlers = handlers
        self._clock = clock
        self._sleep = sleep

    async def count(self, request: ReplayRequest) -> ReplayCounts:
        """Count what a replay would let be handled again; nothing is changed.

        Raises:
            HandlerGone: there is no handler of the request's name.
        """
        handler = self._handler_of(request)
        types, states, accounts = Counter[str](), Counter[str](), Counter[str]()
        left_out = 0
        async for page in self._pages(request.wanted, handler, after=0):
            for record in page:
                if not request.takes(record):
                    left_out += 1
                    continue
                types[record.type] += 1
                states[record.state.value] += 1
                accounts[record.account] += 1
        return ReplayCounts(sum(types.values()), left_out, dict(types), dict(states), dict(accounts))

    async def begin(self, request: ReplayRequest, *, total: int, actor: str) -> str:
        """Write a new replay down and return its id. Events received from now on are not part of it.

        Raises:
            ComponentPaused: it could not begin.
        """
        await self._refuse_while_paused({request.wanted.component or ""})
        newest = await self._log.find(EventFilter(), limit=1)
        now = self._clock()
        replay = Replay(
            id=new_id("rep"),
            wanted=_write(request),
            handler=request.handler,
            rate=request.rate,
            last_event_id=newest[0].id if newest else 0,
            cursor=0,
            total=total,
            revived=0,
            actor=actor,
            started_at=now,
            updated_at=now,
        )
        replay_id = replay.id
        async with self._database.transaction() as session:
            session.add(replay)
            detail = {"events": total, "handler": request.handler, "rate": request.rate}
            await audit.add(session, actor=actor, action="events.replay", subject=replay_id, now=now, detail=detail)
        return replay_id

    async def run(
        self,
        replay_id: str,
        *,
        progress: Callable[[int], None] = lambda _: None,
        waiting: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Run a replay to its end, from where it stands; returns how many events it let go in all.

        When it is cut off, at most the last portion is let go twice, and an event that is pending is not let go.

        Args:
            progress: told how many more events were let go.
            waiting: told how many live events are behind, each time it makes way for them.

        Raises:
            ComponentPaused: it was paused meanwhile; the replay can go on later from where it stands.
            HandlerGone: there is no handler any more of the name that the replay is for.
            ReplayNotFound: there is no such replay, or it is done.
        """
        async with self._database.transaction() as session:
            stored = await replays.get(session, replay_id)
            if stored is None or stored.finished_at is not None:
                raise ReplayNotFound(f"there is no replay {replay_id} that could go on")
            request, cursor, last = _read(stored), stored.cursor, stored.last_event_id
        handler = self._handler_of(request)
        portion = max(1, request.rate // _PORTIONS_PER_SECOND)
        async for page in self._pages(request.wanted, handler, after=cursor, last=last):
            for start in range(0, len(page), portion):
                records = page[start : start + portion]
                taken = [record for record in records if request.takes(record)]
                revived = 0
                if taken:
                    await self._let_live_events_pass({record.component for record in taken}, waiting)
                    revived = await self._revive(taken, handler)
                async with self._database.transaction() as session:
                    now = self._clock()
                    await replays.advance(session, replay_id, cursor=records[-1].id, revived=revived, now=now)
                progress(revived)
                if revived:
                    await self._sleep(revived / request.rate)
        async with self._database.transaction() as session:
            await replays.finish(session, replay_id, now=self._clock())
            done = await replays.get(session, replay_id)
            return 0 if done is None else done.revived

    async def _revive(self, records: Sequence[EventRecord], handler: Handler | None) -> int:
        ids, now = [record.id for record in records], self._clock()
        if handler is None:
            return await self._log.revive(ids, handler=None, now=now)
        others = [other for other in self._handlers if other.key != handler.key]
        skipped = {
            record.id: [other.key for other in others if other.wants_name(record.type, record.event)]
            for record in records
        }
        return await self._log.revive(ids, handler=handler.key, now=now, skipped=skipped)

    def _handler_of(self, request: ReplayRequest) -> Handler | None:
        if request.handler is None:
            return None
        found = next((handler for handler in self._handlers if handler.key == request.handler), None)
        if found is None:
            raise HandlerGone(request.handler)
        return found

    async def _let_live_events_pass(self, components: Collection[str], waiting: Callable[[int], None]) -> None:
        await self._refuse_while_paused(components)
        while behind := await self._log.due(components, now=self._clock() - _BEHIND):
            waiting(behind)
            await self._sleep(_YIELD_SECONDS)
            await self._refuse_while_paused(components)

    async def _refuse_while_paused(self, components: Collection[str]) -> None:
        async with self._database.transaction() as session:
            paused = [row.component for row in await pauses.get_all(session) if not row.handler]
        for component in paused:
            if component in components:
                raise ComponentPaused(component)

    async def _pages(
        self, wanted: EventFilter, handler: Handler | None, *, after: int, last: int | None = None
    ) -> AsyncIterator[list[EventRecord]]:
        """Read the events that match and that the handler takes, if the replay is for one."""
        if handler is not None and wanted.type is None:
            wanted = replace(wanted, type=handler.type)
        while page := await self._log.tail(after, wanted, limit=_PAGE):
            after = page[-1].id
            within = [record for record in page if last is None or record.id <= last]
            taken = [record for record in within if handler is None or handler.wants_name(record.type, record.event)]
            if taken:
                yield taken
            if len(within) < len(page):
                return


def _write(request: ReplayRequest) -> str:
    wanted = {name: value for name, value in asdict(request.wanted).items() if value is not None}
    return json.dumps({"wanted": wanted, "group": request.group}, default=_text)


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _read(stored: Replay) -> ReplayRequest:
    written = json.loads(stored.wanted)
    values: dict[str, Any] = written["wanted"]
    if "state" in values:
        values["state"] = EventState(values["state"])
    for name in {"received_from", "received_before"} & values.keys():
        values[name] = datetime.fromisoformat(values[name])
    return ReplayRequest(EventFilter(**values), stored.handler, written["group"], stored.rate)
