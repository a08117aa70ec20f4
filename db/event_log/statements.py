"""What the event log's modules share to build their statements for PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ARRAY, BigInteger, ColumnElement, any_, bindparam, literal_column
from sqlmodel import col

from db.event_log.tables import EventLogTable, EventState, StoredEvent

ERASURES = EventLogTable.metadata.tables["erasures"]


def in_state(state: EventState) -> ColumnElement[bool]:
    """Compare with a state that stands in the statement itself, as the indexes of single states ask for."""
    return col(StoredEvent.state) == literal_column(f"'{state.value}'")


def is_any(column: int | None, ids: Collection[int]) -> ColumnElement[bool]:
    """Compare with ids in one parameter, so that the statement is the same, and planned once, for any number."""
    return col(column) == any_(bindparam(None, list(ids), type_=ARRAY(BigInteger), unique=True))
