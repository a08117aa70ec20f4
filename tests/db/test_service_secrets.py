"""Secrets that the service makes for itself, once."""

from __future__ import annotations

import asyncio

from sqlalchemy import column, func, select, table

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import service_secrets
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys

WAITING = select(func.count()).select_from(table("pg_locks")).where(column("granted").is_(False))


async def test_processes_that_start_together_for_the_first_time_have_the_same(
    database: Database, encryption: EncryptionKeys
) -> None:
    async def start() -> bytes:
        async with database.transaction() as session:
            return await service_secrets.ensure(session, encryption, "api_key_lookup", now=utc_now())

    values = await asyncio.gather(*(start() for _ in range(5)))
    assert len(values[0]) == 32
    assert set(values) == {values[0]} == {await start()}


async def test_who_comes_second_uses_what_the_first_one_made(postgresql_url: str, encryption: EncryptionKeys) -> None:
    database = Database.open(postgresql_url)
    try:
        async with database.transaction() as first:
            made = await service_secrets.ensure(first, encryption, "api_key_lookup", now=utc_now())

            async def start() -> bytes:
                async with database.transaction() as session:
                    return await service_secrets.ensure(session, encryption, "api_key_lookup", now=utc_now())

            second = asyncio.create_task(start())
            while not await _someone_waits(database):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await second == made
    finally:
        await database.close()


async def _someone_waits(database: Database) -> bool:
    return bool((await database.reads.rows(WAITING))[0][0])
