"""Receipts: what became of an event, from the moment it was read to its last handler, without the event's content."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from enable_with_segment.db.event_log.records import EventDetail
from enable_with_segment.db.event_log.states import EventState, HandlerState


@dataclass(frozen=True, slots=True)
class HandlerReceipt:
    """One handler's newest outcome. ``after`` is how long after the event was received it came."""

    handler: str
    state: HandlerState
    attempts: int
    at: datetime
    after: timedelta
    next_attempt_at: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """One event of one install or key.

    That there is a receipt means that the event was committed: nothing else is ever answered 202. ``handled_after``
    is the time from ``received_at`` to ``finished_at``; ``next_attempt_at`` is there while the event is pending.
    """

    message_id: str | None
    account: str
    component: str
    install_id: str | None
    type: str
    event: str | None
    occurred_at: datetime
    received_at: datetime
    state: EventState
    attempts: int
    finished_at: datetime | None
    handled_after: timedelta | None
    next_attempt_at: datetime | None
    last_error: str | None
    duplicates: int
    differing_duplicates: int
    replays: int
    erased: bool
    handlers: tuple[HandlerReceipt, ...]


def receipt_of(detail: EventDetail) -> Receipt:
    """Build the receipt of a stored event."""
    record = detail.record
    pending = record.state is EventState.PENDING
    return Receipt(
        message_id=record.message_id,
        account=record.account,
        component=record.component,
        install_id=record.install_id,
        type=record.type,
        event=record.event,
        occurred_at=record.occurred_at,
        received_at=record.received_at,
        state=record.state,
        attempts=record.attempts,
        finished_at=record.finished_at,
        handled_after=None if record.finished_at is None else record.finished_at - record.received_at,
        next_attempt_at=record.available_at if pending else None,
        last_error=record.last_error,
        duplicates=record.duplicates,
        differing_duplicates=record.differing_duplicates,
        replays=record.replays,
        erased=record.erased,
        handlers=tuple(
            HandlerReceipt(
                handler=outcome.handler,
                state=outcome.state,
                attempts=outcome.attempts,
                at=outcome.at,
                after=outcome.at - record.received_at,
                next_attempt_at=outcome.due_at,
                error=outcome.error,
            )
            for outcome in detail.handlers
        ),
    )
