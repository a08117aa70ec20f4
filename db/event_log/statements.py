"""What the event log's modules share to build their statements."""

from __future__ import annotations

from typing import cast

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from db.event_log.tables import EventLogTable

EVENTS = EventLogTable.metadata.tables["events"]
OUTCOMES = EventLogTable.metadata.tables["handler_outcomes"]
ERASURES = EventLogTable.metadata.tables["erasures"]


def insert_into(connection: AsyncConnection, table: Table) -> postgresql.Insert:
    """An INSERT of the connection's dialect, with ``ON CONFLICT``; both dialects spell it the same way."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return cast("postgresql.Insert", sqlite.insert(table))
