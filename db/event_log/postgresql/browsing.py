"""The operator's questions to the event log."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    LargeBinary,
    RowMapping,
    Text,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from enable_with_segment.db.event_log.deletion import Tenant, work_of
from enable_with_segment.db.event_log.message_key import key_of_message
from enable_with_segment.db.event_log.postgresql import claiming
from enable_with_segment.db.event_log.postgresql.deletion import PostgresDeletions
from enable_with_segment.db.event_log.postgresql.statements import OLDEST_PENDING, in_state, is_any
from enable_with_segment.db.event_log.records import (
    RETRIED,
    Backlog,
    Deletion,
    EventCounts,
    EventDetail,
    EventFilter,
    EventPage,
    EventRecord,
    Proof,
)
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.db.event_log.storable_text import may_stand_for_others, storable
from enable_with_segment.db.event_log.tables import HandlerOutcome, MessageKey, StoredEvent

#: An event that an index leads to takes as long as so many that are passed in the order of their ids.
_LOOK_UP = 10
_CHUNK = 1_000
_UNHANDLED = (EventState.PENDING, EventState.DEAD_LETTER)

_RECORD = (
    col(StoredEvent.id),
    col(StoredEvent.message_id),
    col(StoredEvent.received_at),
    col(StoredEvent.occurred_at),
    col(StoredEvent.account),
    col(StoredEvent.component),
    col(StoredEvent.key_id),
    col(StoredEvent.install_id),
    col(StoredEvent.type),
    col(StoredEvent.event),
    col(StoredEvent.state),
    col(StoredEvent.attempts),
    col(StoredEvent.available_at),
    col(StoredEvent.finished_at),
    col(StoredEvent.last_error),
    col(StoredEvent.duplicates),
    col(StoredEvent.differing_duplicates),
    col(StoredEvent.replays),
    col(StoredEvent.erased),
)


# The index of messages is over their hashes, which are a third as long as the ids.
_STATES = (
    text(
        "SELECT wanted.id, wanted.key, state FROM unnest(:ids, :keys) AS wanted (id, key) JOIN events"
        " ON hashtextextended(message_id, 0) = hashtextextended(wanted.id, 0) AND message_id = wanted.id"
        " WHERE wanted.key IS NULL"
        " OR NOT EXISTS (SELECT FROM message_keys WHERE message_keys.id = events.id AND message_keys.key <> wanted.key)"
    )
    .bindparams(bindparam("ids", type_=ARRAY(Text)), bindparam("keys", type_=ARRAY(LargeBinary)))
    .columns(state=StoredEvent.__table__.c.state.type)  # type: ignore[attr-defined]
)


async def search(
    connection: AsyncConnection, wanted: EventFilter, *, limit: int, before_id: int | None, most: int
) -> EventPage:
    """Return the newest events that match, from at most so many events below an id; the newest first."""
    # These come in the order of their ids from an index; what else is asked for has to be looked at event by event.
    ordered = [] if before_id is None else [col(StoredEvent.id) < before_id]
    reads_rows = True
    if wanted.state is not None and wanted.state is not EventState.HANDLED:
        ordered.append(in_state(wanted.state))
        reads_rows = wanted.state is EventState.PENDING or _needs_rows(wanted)
        wanted = replace(wanted, state=None)
        most = max(1, most // _LOOK_UP) if reads_rows else most
    others = _conditions(wanted)
    newest_first = col(StoredEvent.id).desc()
    statement = select(*_RECORD).order_by(newest_first)
    if wanted.message_id is not None:
        rows = await connection.execute(statement.where(*ordered, *others))
        return _page([_record(row) for row in rows.mappings()][:limit], limit)  # few: one for each sender
    first_id: int | None = None
    if others:
        ids = select(col(StoredEvent.id)).where(*ordered).order_by(newest_first)
        first_id = await connection.scalar(ids.offset(most - 1).limit(1))
        if first_id is not None:
            others.append(col(StoredEvent.id) >= first_id)
        if not reads_rows:
            ordered, others = [col(StoredEvent.id).in_(ids.where(*others).limit(limit))], []
    rows = await connection.execute(statement.where(*ordered, *others).limit(limit))
    records = [_record(row) for row in rows.mappings()]
    if first_id is None or len(records) >= limit:
        return _page(records, limit)
    back_to = await connection.scalar(select(col(StoredEvent.received_at)).where(col(StoredEvent.id) == first_id))
    return EventPage(tuple(records), first_id, back_to)


def _needs_rows(wanted: EventFilter) -> bool:
    """Tell whether the index of rare states, which knows ids, senders and types, is not enough to decide."""
    return any(value is not None for value in (wanted.event, wanted.received_from, wanted.received_before))


def _page(records: Sequence[EventRecord], limit: int) -> EventPage:
    """Return the events of a search that went on until there were enough, or to the end of the log."""
    if len(records) < limit:
        return EventPage(tuple(records))
    return EventPage(tuple(records), records[-1].id, records[-1].received_at)


async def tail(connection: AsyncConnection, after_id: int, wanted: EventFilter, *, limit: int) -> list[EventRecord]:
    """Return matching events after an id, in the order of arrival."""
    statement = select(*_RECORD).where(col(StoredEvent.id) > after_id, *_conditions(wanted))
    statement = statement.order_by(col(StoredEvent.id)).limit(limit)
    return [_record(row) for row in (await connection.execute(statement)).mappings()]


async def show(connection: AsyncConnection, message_id: str) -> list[EventDetail]:
    """Return every event of a message id with its body and outcomes."""
    return await _details(connection, *_of_message(message_id))


async def deletion_of(connection: AsyncConnection, event_id: int) -> Deletion | None:
    """Return the deletion that does the work of a delete (``db.event_log.deletion.work_of``)."""
    own = select(
        col(StoredEvent.account),
        col(StoredEvent.component),
        col(StoredEvent.person_hash),
        func.least(col(StoredEvent.occurred_at), col(StoredEvent.received_at)),
    ).where(col(StoredEvent.id) == event_id)
    row = (await connection.execute(own)).first()
    if row is None:
        return None
    account, component, person, through = row
    tombstones = await PostgresDeletions(connection).tombstones(Tenant(account, component), person or "")
    work = work_of(event_id, through, tombstones)
    if work is None:
        return None
    details = await _details(connection, col(StoredEvent.id) == work.event_id)
    return Deletion(work.event_id, work.completed_at is not None, details[0] if details else None)


async def _details(connection: AsyncConnection, *conditions: ColumnElement[bool]) -> list[EventDetail]:
    statement = select(*_RECORD).where(*conditions).order_by(col(StoredEvent.id))
    rows = (await connection.execute(statement)).mappings().all()
    event_ids = [row["id"] for row in rows]
    outcomes = await claiming.handler_outcomes(connection, event_ids)
    bodies = await claiming.bodies(connection, event_ids)
    details: list[EventDetail] = []
    for row in rows:
        body, settings = bodies.get(row["id"], (None, None))
        handlers = tuple(outcomes.get(row["id"], ()))
        details.append(EventDetail(_record(row), body, json.loads(settings or "{}"), handlers))
    return details


async def prove(connection: AsyncConnection, message_ids: Sequence[str]) -> Proof:
    """Compare message ids with the log: which never arrived, and which are not finished with."""
    wanted = list(dict.fromkeys(message_ids))
    stored = [_as_stored(message_id) for message_id in wanted]
    states: dict[tuple[str, bytes | None], set[EventState]] = defaultdict(set)
    for start in range(0, len(wanted), _CHUNK):
        ids, keys = zip(*stored[start : start + _CHUNK], strict=True)
        for message_id, key, state in (await connection.execute(_STATES, {"ids": ids, "keys": keys})).all():
            states[message_id, key].add(state)
    pairs = list(zip(wanted, stored, strict=True))
    return Proof(
        checked=len(wanted),
        missing=tuple(message_id for message_id, one in pairs if one not in states),
        unhandled=tuple(message_id for message_id, one in pairs if states.get(one, set()) & {*_UNHANDLED}),
    )


async def retry_dead_letters(connection: AsyncConnection, event_ids: Sequence[int] | None, *, now: datetime) -> int:
    """Make dead letters pending again with a fresh count of attempts; handlers that were done stay done."""
    chosen: list[ColumnElement[bool]] = [in_state(EventState.DEAD_LETTER)]
    if event_ids is not None:
        chosen.append(is_any(StoredEvent.id, event_ids))
    await connection.execute(
        delete(HandlerOutcome).where(
            col(HandlerOutcome.event_id).in_(select(col(StoredEvent.id)).where(*chosen)),
            col(HandlerOutcome.state).in_(RETRIED),
        )
    )
    revived = await connection.execute(
        update(StoredEvent)
        .where(*chosen)
        .values(state=EventState.PENDING, attempts=0, available_at=now, finished_at=None)
    )
    return revived.rowcount


async def counts(connection: AsyncConnection, now: datetime) -> EventCounts:
    """Count events by state, and those that are due."""
    statement = select(col(StoredEvent.state), func.count(), func.sum(col(StoredEvent.duplicates))).group_by(
        col(StoredEvent.state)
    )
    rows = (await connection.execute(statement)).all()
    return EventCounts(
        by_state={state: count for state, count, _ in rows},
        duplicates=sum(int(duplicates) for _, _, duplicates in rows),
        due=await claiming.count_due(connection, now),
    )


async def backlog(connection: AsyncConnection) -> Backlog:
    """Tell how much is pending, and since when."""
    counted = (in_state(state) for state in (EventState.PENDING, EventState.DEAD_LETTER))
    pending, dead_letters = [
        int(await connection.scalar(select(func.count()).select_from(StoredEvent).where(condition)) or 0)
        for condition in counted
    ]
    oldest = select(col(StoredEvent.received_at)).where(col(StoredEvent.id) == OLDEST_PENDING.scalar_subquery())
    return Backlog(pending, dead_letters, await connection.scalar(oldest))


async def count_pending(connection: AsyncConnection, most: int) -> int:
    """Count pending events, but no further than ``most``."""
    some = select(col(StoredEvent.id)).where(in_state(EventState.PENDING)).limit(most)
    return int(await connection.scalar(select(func.count()).select_from(some.subquery())) or 0)


def _record(row: RowMapping) -> EventRecord:
    return EventRecord(**{name.name: row[name.name] for name in fields(EventRecord)})


def _of_message(message_id: str) -> list[ColumnElement[bool]]:
    stored, key = _as_stored(message_id)
    indexed = func.hashtextextended(col(StoredEvent.message_id), literal_column("0"))
    conditions = [
        indexed == func.hashtextextended(stored, literal_column("0")),
        col(StoredEvent.message_id) == stored,
    ]
    if key is not None:
        conditions.append(~exists().where(col(MessageKey.id) == col(StoredEvent.id), col(MessageKey.key) != key))
    return conditions


def _as_stored(message_id: str) -> tuple[str, bytes | None]:
    """Return how a message id is stored, and its key where others are stored alike.

    The log knows its messages' keys for as long as they count as duplicates.
    """
    stored = storable(message_id)
    return stored, key_of_message(message_id) if may_stand_for_others(stored) else None


def _conditions(wanted: EventFilter) -> list[ColumnElement[bool]]:
    columns = {
        "account": col(StoredEvent.account),
        "component": col(StoredEvent.component),
        "install_id": col(StoredEvent.install_id),
        "type": col(StoredEvent.type),
    }
    conditions = [column == value for name, column in columns.items() if (value := getattr(wanted, name)) is not None]
    if wanted.event is not None:
        conditions.append(col(StoredEvent.event) == storable(wanted.event))
    if wanted.state is not None:
        conditions.append(in_state(wanted.state))
    if wanted.message_id is not None:
        conditions += _of_message(wanted.message_id)
    if wanted.received_from is not None:
        conditions.append(col(StoredEvent.received_at) >= wanted.received_from)
    if wanted.received_before is not None:
        conditions.append(col(StoredEvent.received_at) < wanted.received_before)
    return conditions
