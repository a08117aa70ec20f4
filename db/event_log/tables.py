"""The tables of the event log in PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Enum,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    text,
)
from sqlmodel import Field, SQLModel

from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.db.types import UtcDateTime


class EventLogTable(SQLModel):
    """Base of the event log's tables; they have metadata of their own, apart from the control store's."""

    metadata: ClassVar[MetaData] = MetaData()


def _words(kind: type[StrEnum]) -> Any:
    return Enum(kind, native_enum=False, length=32, values_callable=lambda members: [m.value for m in members])


def _counter() -> Any:
    return Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))


#: The tables that grow are cut into partitions by id, each with the same bounds (``postgresql.partitions``).
_BY_ID = {"postgresql_partition_by": "RANGE (id)"}


class StoredEvent(EventLogTable, table=True):
    """One received event, without its body. People appear as keyed hashes only."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_due", "scope", "available_at", "id", postgresql_where=text("state = 'pending'")),
        Index("ix_events_pending", "id", postgresql_where=text("state = 'pending'")),
        Index(
            "ix_events_rare",
            "state",
            "id",
            postgresql_include=["account", "component", "install_id", "type"],
            postgresql_where=text("state <> 'pending' AND state <> 'handled'"),
        ),
        Index("ix_events_message", text("hashtextextended(message_id, 0)")),
        Index("ix_events_subject", text("coalesce(person_hash, device_hash)")),
        _BY_ID,
    )

    id: int | None = Field(default=None, sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    scope: str
    """The install, or the key where there is no install: the space in which message ids are unique."""
    received_at: datetime = Field(sa_type=UtcDateTime)
    occurred_at: datetime = Field(sa_type=UtcDateTime)
    account: str
    component: str
    key_id: str
    install_id: str | None = None
    message_id: str | None = None
    type: str
    event: str | None = None
    person_hash: str | None = None
    device_hash: str | None = None
    previous_hash: str | None = None
    erased: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=text("false")))
    """Whether the body is gone."""
    state: EventState = Field(
        sa_column=Column(_words(EventState), nullable=False, server_default=text(f"'{EventState.PENDING}'"))
    )
    attempts: int = _counter()
    available_at: datetime = Field(sa_type=UtcDateTime)
    lease: str | None = None
    """Fence of the running attempt: a late settlement under an older lease changes nothing."""
    leased_until: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    last_error: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    duplicates: int = _counter()
    """How often the same message came again, by retry or replay."""
    differing_duplicates: int = _counter()
    """How many of those had another body under the same message id."""
    replays: int = _counter()
    """How many of the duplicates Segment sent from its archive."""


class StoredBody(EventLogTable, table=True):
    """What was received, byte for byte. It stands apart, because an event's row is written anew at every attempt."""

    __tablename__ = "bodies"
    __table_args__ = (_BY_ID,)

    id: int | None = Field(default=None, sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    body: bytes
    settings: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    """JSON; empty where there are none."""


class MessageKey(EventLogTable, table=True):
    """A message that counts as a duplicate when it comes again.

    One table over all partitions, because only one unique index can say that a message is there once. It holds the
    dedupe window only, and nothing that is not needed to find a message.
    """

    __tablename__ = "message_keys"
    __table_args__ = (Index("ix_message_keys_id", "id"),)

    key: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    """Hash of the message id, or of the body where there is none (contract 5.7)."""
    scope: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    """Hash of the event's scope."""
    id: int = Field(sa_column=Column(BigInteger, nullable=False))


class HandlerOutcome(EventLogTable, table=True):
    """The newest outcome of one handler for one event."""

    __tablename__ = "handler_outcomes"
    __table_args__ = ({"postgresql_partition_by": "RANGE (event_id)"},)

    event_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    handler: str = Field(primary_key=True)
    state: HandlerState = Field(sa_column=Column(_words(HandlerState), nullable=False))
    attempts: int = 0
    at: datetime = Field(sa_type=UtcDateTime)
    error: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    due_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    """When a handler that is not finished may be called again."""
    since: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    """When the first attempt with a result ended."""
    results: int = _counter()
    """How many of the attempts ended with a result: all that are not ``unknown``."""


class Erasure(EventLogTable, table=True):
    """A tombstone: that one deletion covers a person, a device, or an id merged into somebody.

    Events up to ``erased_through`` are not handled.
    """

    __tablename__ = "erasures"

    account: str = Field(primary_key=True)
    component: str = Field(primary_key=True)
    person_hash: str = Field(primary_key=True)
    event_id: int = Field(sa_column=Column(BigInteger, primary_key=True, index=True, autoincrement=False))
    """The event that the deletion comes from: a delete, or an alias that came too late for one."""
    erased_through: datetime = Field(sa_type=UtcDateTime)
    requested_at: datetime = Field(sa_type=UtcDateTime)
    completed_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
