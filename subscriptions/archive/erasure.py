"""Erasing a person because an operator asks for it: a delete of our own, which takes the way of every other one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from enable_with_segment.db.control import audit
from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import EventArchive
from enable_with_segment.db.event_log.records import Deletion
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.db.identifiers import new_id

REQUESTED, ERASED = "person.erase", "person.erased"


class ErasureRefused(Exception):
    """The delete was not stored; the text says why."""


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What was erased where, without personal data.

    ``state`` is that of the deletion that does the work: ``handled`` once everything is done, ``unsupported`` when the
    log is wiped and no handler erased anything. That is another message's
    when the person was to be deleted already; ``done_by`` is its messageId. ``stored_events`` were wiped from the log,
    dead letters among them, for the person and ``merged_ids`` other ids. ``handlers`` are the partner's own, sinks
    among them, with what they answered.
    """

    message_id: str
    done_by: str | None
    account: str
    component: str
    state: EventState
    requested_at: datetime
    erased_through: datetime
    completed_at: datetime | None
    stored_events: int | None
    merged_ids: int | None
    handlers: dict[str, HandlerState]

    @property
    def complete(self) -> bool:
        """Whether nothing of the person is left."""
        return self.state is EventState.HANDLED


def delete_message(user_id: str, *, now: datetime) -> dict[str, Any]:
    """Return a delete as Segment sends it (contract 7.1), with an id that is told apart from Segment's."""
    return {
        "type": "delete",
        "channel": "server",
        "messageId": f"delete-operator-{new_id('era')}",
        "userId": user_id,
        "timestamp": now.isoformat(),
    }


async def find_receipt(archive: EventArchive, database: Database, message_id: str) -> ErasureReceipt | None:
    """Return how far an erasure has come; ``None`` when there is no such delete."""
    details = [detail for detail in await archive.show(message_id) if detail.record.type == "delete"]
    if not details:
        return None
    record = details[0].record
    work = Deletion(record.id, completed=record.state is EventState.HANDLED, detail=details[0])
    if record.state is EventState.REPEATED_DELETE:
        work = await archive.deletion_of(record.id) or Deletion(0, completed=False, detail=None)
    async with database.transaction() as session:
        noted = await audit.list_newest(session, action=ERASED, subject=f"event {work.event_id}", limit=1)
    counts = noted[0].detail if noted else {}
    return ErasureReceipt(
        message_id=message_id,
        done_by=None if work.detail is None else work.detail.record.message_id,
        account=record.account,
        component=record.component,
        state=_state_of(work, counts.get("handlers", {})),
        requested_at=record.received_at,
        erased_through=min(record.occurred_at, record.received_at),
        completed_at=None if work.detail is None else work.detail.record.finished_at,
        stored_events=counts.get("events"),
        merged_ids=counts.get("merged_ids"),
        handlers={} if work.detail is None else {one.handler: one.state for one in work.detail.handlers},
    )


def _state_of(work: Deletion, noted: Mapping[str, str]) -> EventState:
    """Return how far a deletion is. One that the log has no more, and that was never completed, was given up.

    Args:
        noted: what the audit says that its handlers answered.
    """
    if work.detail is not None and work.detail.record.state in (EventState.PENDING, EventState.UNSUPPORTED):
        return work.detail.record.state
    if work.completed:
        was_unsupported = work.detail is None and set(noted.values()) == {HandlerState.UNSUPPORTED.value}
        return EventState.UNSUPPORTED if was_unsupported else EventState.HANDLED
    return EventState.DEAD_LETTER if work.detail is None else work.detail.record.state
