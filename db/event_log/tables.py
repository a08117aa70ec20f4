"""The tables of the event log."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    Column,
    Enum,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from db.types import UtcDateTime


class EventState(StrEnum):
    """What became of an event."""

    PENDING = "pending"
    """Waiting for its first or next attempt."""
    HANDLED = "handled"
    """Every handler that wanted it is done with it, and at least one did something."""
    UNSUPPORTED = "unsupported"
    """No handler wanted it, or all said that they do not support it."""
    SUPPRESSED = "suppressed"
    """Not handed over, because the person was deleted at or after the event's time (contract 7.1)."""
    REPEATED_DELETE = "repeated_delete"
    """A further delete message for the same deletion; one job does the work."""
    DEAD_LETTER = "dead_letter"
    """Given up; the reason is in ``last_error``."""


class HandlerState(StrEnum):
    """What one handler made of one event."""

    DONE = "done"
    UNSUPPORTED = "unsupported"
    RETRY = "retry"
    UNKNOWN = "unknown"
    """The attempt ended without a result: whoever made it died, or could not store what came of it."""
    FAILED = "failed"


class EventLogTable(SQLModel):
    """Base of the event log's tables; they have metadata of their own, apart from the control store's."""

    metadata: ClassVar[MetaData] = MetaData()


def _words(kind: type[StrEnum]) -> Any:
    return Enum(kind, native_enum=False, length=32, values_callable=lambda members: [m.value for m in members])


_ROW_ID = BigInteger().with_variant(Integer(), "sqlite")


class StoredEvent(EventLogTable, table=True):
    """One received event. The body is kept byte for byte; people appear in the other columns as keyed hashes only."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("scope", "dedupe_key", name="uq_events_scope_dedupe_key"),
        Index("ix_events_state_available_at", "state", "available_at"),
        Index("ix_events_pending", "scope", "available_at", "id", postgresql_where=text("state = 'pending'")),
        Index("ix_events_person", "account", "person_hash"),
        Index("ix_events_device", "account", "device_hash"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(_ROW_ID, primary_key=True, autoincrement=True))
    scope: str
    """The install, or the key where there is no install: the space in which message ids are unique."""
    dedupe_key: bytes
    """Hash of the message id, or of the body where there is none (contract 5.7)."""
    received_at: datetime = Field(sa_type=UtcDateTime)
    occurred_at: datetime = Field(sa_type=UtcDateTime)
    account: str
    component: str
    key_id: str
    install_id: str | None = Field(default=None, index=True)
    message_id: str | None = Field(default=None, index=True)
    type: str
    event: str | None = None
    person_hash: str | None = None
    device_hash: str | None = None
    previous_hash: str | None = None
    body: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    """Empty once the person was erased."""
    settings: str = Field(sa_column=Column(Text, nullable=False))
    state: EventState = Field(sa_column=Column(_words(EventState), nullable=False))
    attempts: int = 0
    available_at: datetime = Field(sa_type=UtcDateTime)
    lease: str | None = None
    """Fence of the running attempt: a late settlement under an older lease changes nothing."""
    leased_until: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    last_error: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    duplicates: int = 0
    """How often the same message came again, by retry or replay."""
    differing_duplicates: int = 0
    """How many of those had another body under the same message id."""
    replays: int = 0
    """How many of the duplicates Segment sent from its archive."""


class HandlerOutcome(EventLogTable, table=True):
    """The newest outcome of one handler for one event."""

    __tablename__ = "handler_outcomes"

    event_id: int = Field(sa_column=Column(_ROW_ID, ForeignKey("events.id", ondelete="CASCADE"), primary_key=True))
    handler: str = Field(primary_key=True)
    state: HandlerState = Field(sa_column=Column(_words(HandlerState), nullable=False))
    attempts: int = 0
    at: datetime = Field(sa_type=UtcDateTime)
    error: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    due_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    """When a handler that is not finished may be called again."""
    since: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    """When the first of the attempts so far ended."""


class Erasure(EventLogTable, table=True):
    """The tombstone of a person, or of an id merged into one: events up to ``erased_through`` are not handled."""

    __tablename__ = "erasures"

    account: str = Field(primary_key=True)
    component: str = Field(primary_key=True)
    person_hash: str = Field(primary_key=True)
    erased_through: datetime = Field(sa_type=UtcDateTime)
    requested_at: datetime = Field(sa_type=UtcDateTime)
    event_id: int = Field(sa_column=Column(_ROW_ID, nullable=False, index=True))
    """The delete event that does the work."""
    completed_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
