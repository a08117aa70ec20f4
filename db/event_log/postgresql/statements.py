"""What the event log's modules share to build their statements for PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    SQLColumnExpression,
    Text,
    and_,
    any_,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlmodel import col

from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.db.event_log.tables import EventLogTable, StoredEvent

#: The person of an event, or the device while no person is known.
SUBJECT = func.coalesce(col(StoredEvent.person_hash), col(StoredEvent.device_hash))

ERASURES = EventLogTable.metadata.tables["erasures"]


def in_state(state: EventState) -> ColumnElement[bool]:
    """Compare with a state that stands in the statement itself, as the indexes of single states ask for."""
    return col(StoredEvent.state) == literal_column(f"'{state.value}'")


def is_any(column: int | None, ids: Collection[int]) -> ColumnElement[bool]:
    """Compare with ids in one parameter, so that the statement is the same, and planned once, for any number.

    The lowest and the highest are parameters as well: they say which partitions need not be looked into.
    """
    some_ids = bindparam(None, list(ids), type_=ARRAY(BigInteger), unique=True)
    return and_(col(column) == any_(some_ids), col(column) >= min(ids, default=0), col(column) <= max(ids, default=0))


def is_any_of(column: SQLColumnExpression[Any], texts: Collection[str]) -> ColumnElement[bool]:
    """Compare with texts in one parameter: a statement takes no more than 32,767 of them."""
    return column == any_(bindparam(None, list(texts), type_=ARRAY(Text), unique=True))


#: The lowest id of a pending event. Partitions from before that need not be looked into for one.
OLDEST_PENDING = select(func.min(col(StoredEvent.id))).where(in_state(EventState.PENDING))
