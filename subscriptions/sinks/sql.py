"""Events to two tables of a database: ``events``, and ``contacts`` with what is known about each person."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Index, MetaData, String, Table, Text, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from enable_with_segment.components.errors import RetryError
from enable_with_segment.components.event import Event
from enable_with_segment.components.install_context import InstallContext
from enable_with_segment.db.sqlite_connection import ReleasingConnection
from enable_with_segment.db.types import UtcDateTime
from enable_with_segment.subscriptions.sinks.record import SinkRecord, merged_ids, record_of, without_nul

METADATA = MetaData()

EVENTS = Table(
    "events",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("account", Text, nullable=False),
    Column("install_id", Text),
    Column("message_id", Text),
    Column("type", Text, nullable=False),
    Column("name", Text),
    Column("user_id", Text),
    Column("anonymous_id", Text),
    Column("previous_id", Text),
    Column("timestamp", UtcDateTime, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("payload", JSON, nullable=False),
    Index("ix_events_account_user_id", "account", "user_id"),
    Index("ix_events_account_anonymous_id", "account", "anonymous_id"),
    Index("ix_events_account_timestamp", "account", "timestamp"),
)

CONTACTS = Table(
    "contacts",
    METADATA,
    Column("account", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("traits", JSON, nullable=False),
    Column("trait_times", JSON, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)
"""``trait_times`` holds for each trait the time of the event that set it, so that an older event never wins."""


class SqlSink:
    """Keeps events and contacts in SQLite or PostgreSQL; the tables are made at first use.

    Args:
        url: ``postgresql+asyncpg://...`` or ``sqlite+aiosqlite:///...``; a database of yours, not the service's own.
        name: names the sink in the event log.
    """

    batch = 500
    always = ("alias",)

    def __init__(self, url: str, *, name: str = "sql") -> None:
        self.name = name
        # Errors must not quote rows: their text is kept with the event and logged.
        self._engine: AsyncEngine = create_async_engine(url, hide_parameters=True, connect_args=_connect_args(url))
        self._made = False
        self._making = asyncio.Lock()

    async def write(self, events: Sequence[Event], install: InstallContext) -> None:
        """Store events and what identify calls say about people, in one transaction."""
        records = [record_of(event, install) for event in events]
        identifies = [event for event in events if event.type == "identify" and event.user_id is not None]
        await self._make_tables()
        try:
            async with self._engine.begin() as connection:
                await _insert_new(connection, EVENTS, [_event_row(record) for record in records])
                await _merge_contacts(connection, install.account, identifies)
        except SQLAlchemyError as error:
            raise _failure(error) from None

    async def erase(self, events: Sequence[Event], install: InstallContext) -> None:
        """Erase people from both tables, with everything that was merged into them, up to the deletion's time."""
        await self._make_tables()
        try:
            async with self._engine.begin() as connection:
                for event in events:
                    user_id = without_nul(event.user_id)
                    if user_id is not None:
                        await _erase(connection, install.account, user_id, event.timestamp)
        except SQLAlchemyError as error:
            raise _failure(error) from None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._engine.dispose()

    async def _make_tables(self) -> None:
        if self._made:
            return
        async with self._making:
            try:
                async with self._engine.begin() as connection:
                    await connection.run_sync(METADATA.create_all)
            except SQLAlchemyError as error:
                raise _failure(error) from None
            self._made = True


def merge_traits(
    traits: Mapping[str, Any], times: Mapping[str, str], new: Mapping[str, Any], at: datetime
) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge traits of an event into those that are stored; the later event wins for each trait.

    ``null`` clears a trait, and its time is kept so that an older value does not come back (contract 6.6).
    """
    merged, merged_times = dict(traits), dict(times)
    for key, value in new.items():
        known = merged_times.get(key)
        if known is not None and datetime.fromisoformat(known) > at:
            continue
        merged_times[key] = at.isoformat()
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged, merged_times


async def _merge_contacts(connection: AsyncConnection, account: str, identifies: Sequence[Event]) -> None:
    by_user: dict[str, list[Event]] = {}
    for event in identifies:
        by_user.setdefault(without_nul(event.user_id) or "", []).append(event)
    # Sorted, so that two processes that know the same people wait for each other in the same order.
    for user_id, events in sorted(by_user.items()):
        empty = {
            "account": account,
            "user_id": user_id,
            "traits": {},
            "trait_times": {},
            "updated_at": events[0].timestamp,
        }
        await _insert_new(connection, CONTACTS, [empty])
        this = (CONTACTS.c.account == account, CONTACTS.c.user_id == user_id)
        row = (await connection.execute(select(CONTACTS).where(*this).with_for_update())).mappings().one()
        traits, times, latest = row["traits"], row["trait_times"], row["updated_at"]
        for event in events:
            traits, times = merge_traits(traits, times, _storable(event.traits.raw), event.timestamp)
            latest = max(latest, event.timestamp)
        changed = {"traits": traits, "trait_times": times, "updated_at": latest}
        await connection.execute(update(CONTACTS).where(*this).values(changed))


async def _erase(connection: AsyncConnection, account: str, user_id: str, through: datetime) -> None:
    aliases = select(EVENTS.c.previous_id, EVENTS.c.user_id).where(
        EVENTS.c.account == account, EVENTS.c.type == "alias"
    )
    ids = merged_ids(user_id, [(previous, target) for previous, target in await connection.execute(aliases)])
    await connection.execute(
        delete(EVENTS).where(
            EVENTS.c.account == account,
            or_(EVENTS.c.user_id.in_(ids), EVENTS.c.anonymous_id.in_(ids)),
            EVENTS.c.timestamp <= through,
        )
    )
    theirs = (CONTACTS.c.account == account, CONTACTS.c.user_id.in_(ids))
    await connection.execute(delete(CONTACTS).where(*theirs, CONTACTS.c.updated_at <= through))
    # Somebody who came back since keeps what they said since.
    for row in (await connection.execute(select(CONTACTS).where(*theirs))).mappings().all():
        newer = {key: at for key, at in row["trait_times"].items() if datetime.fromisoformat(at) > through}
        kept = {key: value for key, value in row["traits"].items() if key in newer}
        await connection.execute(
            update(CONTACTS)
            .where(CONTACTS.c.account == account, CONTACTS.c.user_id == row["user_id"])
            .values(traits=kept, trait_times=newer)
        )


async def _insert_new(connection: AsyncConnection, table: Table, rows: Iterable[dict[str, Any]]) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    values = list(rows)
    if values:
        await connection.execute(dialect.insert(table).on_conflict_do_nothing(), values)


def _event_row(record: SinkRecord) -> dict[str, Any]:
    return {
        **record.as_json(),
        "timestamp": record.timestamp,
        "received_at": record.received_at,
        "payload": _storable(record.payload),
    }


def _storable(value: Any) -> Any:
    """Replace NUL, which PostgreSQL cannot store in JSON."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, Mapping):
        return {str(key).replace("\0", "\ufffd"): _storable(item) for key, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list) else value


def _connect_args(url: str) -> dict[str, Any]:
    """Let a call that is cut off in the middle of a query leave no lock behind in a SQLite file.

    Nothing else is changed about it: the journal mode would stay in the file, and others may have it open.
    """
    return {"factory": ReleasingConnection} if make_url(url).get_backend_name() == "sqlite" else {}


def _failure(error: SQLAlchemyError) -> RetryError:
    return RetryError(f"the sink's database failed ({type(getattr(error, 'orig', None) or error).__name__})")
