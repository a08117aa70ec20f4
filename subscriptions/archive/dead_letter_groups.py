"""Dead letters grouped by cause: one line for each thing that has to be mended, however many events it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from enable_with_segment.db.event_log.log import EventArchive
from enable_with_segment.db.event_log.records import EventFilter, EventLogUnavailable, EventRecord, RetryCutShort
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.subscriptions.archive.causes import cause_of

_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """Events of a component that were given up for the same reason.

    ``id`` stays the same as long as the cause does, so it can be noted down and used in a command.
    """

    id: str
    component: str
    cause: str
    count: int
    accounts: frozenset[str]
    first_received_at: datetime
    last_received_at: datetime


def group_of(record: EventRecord) -> str:
    """Return the id of the group that a dead letter belongs to."""
    return _group_id(record.component, _cause(record))


def group(records: Iterable[EventRecord]) -> list[DeadLetterGroup]:
    """Group dead letters, the largest group first."""
    groups: dict[str, DeadLetterGroup] = {}
    for record in records:
        _add(groups, record)
    return _sorted(groups)


async def find_groups(archive: EventArchive, wanted: EventFilter) -> list[DeadLetterGroup]:
    """Group the dead letters of a log that match a filter, the largest group first."""
    groups: dict[str, DeadLetterGroup] = {}
    async for record in _dead_letters(archive, wanted):
        _add(groups, record)
    return _sorted(groups)


async def has_group(archive: EventArchive, wanted_id: str) -> bool:
    """Tell whether any dead letter is of a group."""
    async for record in _dead_letters(archive, EventFilter()):
        if group_of(record) == wanted_id:
            return True
    return False


async def retry_group(archive: EventArchive, wanted_id: str, *, now: datetime) -> int:
    """Let the events of a group be tried again; returns how many.

    Raises:
        RetryCutShort: the log failed after some of them.
    """
    count, page = 0, list[int]()
    try:
        async for record in _dead_letters(archive, EventFilter()):
            if group_of(record) == wanted_id:
                page.append(record.id)
            if len(page) == _PAGE:
                count += await archive.retry_dead_letters(page, now=now)
                page = []
        return count + (await archive.retry_dead_letters(page, now=now) if page else 0)
    except RetryCutShort as problem:
        raise RetryCutShort(count + problem.retried) from problem
    except EventLogUnavailable as problem:
        raise (RetryCutShort(count) if count else problem) from problem


async def _dead_letters(archive: EventArchive, wanted: EventFilter) -> AsyncIterator[EventRecord]:
    after = 0
    while records := await archive.tail(after, replace(wanted, state=EventState.DEAD_LETTER), limit=_PAGE):
        for record in records:
            yield record
        after = records[-1].id


def _add(groups: dict[str, DeadLetterGroup], record: EventRecord) -> None:
    cause = _cause(record)
    key = _group_id(record.component, cause)
    known = groups.get(key)
    if known is None:
        at = record.received_at
        groups[key] = DeadLetterGroup(key, record.component, cause, 1, frozenset({record.account}), at, at)
        return
    groups[key] = replace(
        known,
        count=known.count + 1,
        accounts=known.accounts | {record.account},
        first_received_at=min(known.first_received_at, record.received_at),
        last_received_at=max(known.last_received_at, record.received_at),
    )


def _cause(record: EventRecord) -> str:
    return cause_of(record.last_error, event=record.event)


def _group_id(component: str, cause: str) -> str:
    return hashlib.sha256(f"{component}\0{cause}".encode()).hexdigest()[:8]


def _sorted(groups: dict[str, DeadLetterGroup]) -> list[DeadLetterGroup]:
    return sorted(groups.values(), key=lambda found: (-found.count, found.component, found.cause))
