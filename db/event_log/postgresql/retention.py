"""Old events leave PostgreSQL a partition at a time; the keys of their messages follow in blocks."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.postgresql import partitions
from enable_with_segment.db.event_log.postgresql.partitions import Partition

logger = logging.getLogger(__name__)

_KEYS_AT_ONCE = 10_000
#: Whoever writes waits while a partition is taken out, so that is not for long: it gives up before anybody is
#: taken for deadlocked, and tries again later.
_LOCK_TIMEOUT = "500ms"


async def drop_before(database: Database, instant: datetime) -> int:
    """Drop the partitions whose events were all received before an instant and are settled; returns how many events
    that were."""
    dropped = 0
    for partition in await _closed(database):
        async with database.engine.connect() as connection:
            newest = await _newest(connection, partition)
        if newest is None or newest < instant:
            dropped += await _drop(database, partition) or 0
    return dropped


async def drop_over(database: Database, limit_bytes: int) -> int:
    """Drop the oldest settled partitions until the log takes no more than ``limit_bytes``; returns how many events."""
    dropped = 0
    for partition in await _closed(database):
        if await size(database) <= limit_bytes:
            break
        events = await _drop(database, partition)
        if events is None:
            break
        dropped += events
        await forget_keys(database, timedelta.max)
    return dropped


async def size(database: Database) -> int:
    """Return how many bytes the log takes, with its indexes."""
    async with database.engine.connect() as connection:
        parts = [part.table(name) for part in await partitions.find(connection) for name in partitions.TABLES]
        statement = "SELECT coalesce(sum(pg_total_relation_size(to_regclass(name))), 0) FROM unnest($1::text[]) name"
        found = await connection.exec_driver_sql(statement, ([*parts, "message_keys", "erasures"],))
        return int(found.scalar_one())


async def forget_keys(database: Database, window: timedelta) -> None:
    """Forget messages that are older than the dedupe window, and those whose events were dropped."""
    async with database.engine.connect() as connection:
        floor = await _oldest_key(connection, window)
    statement = "DELETE FROM message_keys WHERE id IN (SELECT id FROM message_keys WHERE id < $1 ORDER BY id LIMIT $2)"
    while True:
        async with database.engine.begin() as connection:
            if not (await connection.exec_driver_sql(statement, (floor, _KEYS_AT_ONCE))).rowcount:
                return


async def _oldest_key(connection: AsyncConnection, window: timedelta) -> int:
    found = await partitions.find(connection)
    floor = found[0].first_id if found else 0
    latest: datetime | None = None
    for partition in reversed(found):
        newest = await _newest(connection, partition)
        latest = latest or newest
        if latest is not None and newest is not None and latest - newest > window:
            return max(floor, partition.end_id)
    return floor


async def _closed(database: Database) -> list[Partition]:
    async with database.engine.connect() as connection:
        upcoming = await partitions.next_id(connection)
        return [partition for partition in await partitions.find(connection) if partition.end_id <= upcoming]


async def _newest(connection: AsyncConnection, partition: Partition) -> datetime | None:
    found = await connection.exec_driver_sql(
        f"SELECT received_at FROM {partition.table('events')} ORDER BY id DESC LIMIT 1"  # noqa: S608  our own name
    )
    newest: datetime | None = found.scalar()
    return newest


async def _drop(database: Database, partition: Partition) -> int | None:
    """Drop a partition; ``None`` when something in it is still pending."""
    events = partition.table("events")
    pending = f"SELECT EXISTS (SELECT FROM {events} WHERE state = 'pending')"  # noqa: S608
    async with database.engine.connect() as connection:
        if (await connection.exec_driver_sql(pending)).scalar_one():
            return None
        count = int((await connection.exec_driver_sql(f"SELECT count(*) FROM {events}")).scalar_one())  # noqa: S608
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        await connection.exec_driver_sql(
            f"LOCK TABLE {', '.join(f'ONLY {name}' for name in partitions.TABLES)} IN ACCESS EXCLUSIVE MODE"
        )
        # Looked at again, now that nobody can make an old event pending.
        if (await connection.exec_driver_sql(pending)).scalar_one():
            return None
        await connection.exec_driver_sql(f"DROP TABLE {', '.join(map(partition.table, partitions.TABLES))}")
    logger.info("Dropped an old partition of the event log with %d events", count)
    return count
