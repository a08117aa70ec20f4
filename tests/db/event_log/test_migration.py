"""The revisions build exactly the tables that the code uses."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import EventLogOutdated, HandlerResult, Settlement
from enable_with_segment.db.event_log.sqlite import outcomes
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.db.event_log.tables import EventLogTable
from enable_with_segment.db.migrate import Patience, migrate
from enable_with_segment.db.problems import TablesInUse
from enable_with_segment.db.revision import is_current
from enable_with_segment.oauth_app.cli.output import problem_of
from tests.db.event_log.events import COMPONENTS, NOON, later, new_event, settle

_IMPATIENT = Patience(lock_seconds=0.05, tries=2, pause_seconds=0)
_RETRY = HandlerResult("h", HandlerState.RETRY, "away", NOON)


async def test_the_migrated_store_is_the_declared_one(postgresql_url: str) -> None:
    database = Database.open(postgresql_url)

    def differences(connection: Connection) -> list[object]:
        ours = set(EventLogTable.metadata.tables)
        options = {"include_name": lambda name, kind, _parents: kind != "table" or name in ours}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), EventLogTable.metadata))

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


async def test_the_indexes_hold_what_is_declared(postgresql_url: str) -> None:
    """Which rows they are for and what they include: that is not compared above."""
    database = Database.open(postgresql_url)
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql("CREATE SCHEMA declared")
        await connection.exec_driver_sql("SET LOCAL search_path = declared")
        await connection.run_sync(EventLogTable.metadata.create_all)
        rows = await connection.exec_driver_sql(
            "SELECT schemaname, replace(indexdef, schemaname || '.', '') AS definition"
            " FROM pg_indexes WHERE tablename = ANY ($1)",
            (list(EventLogTable.metadata.tables),),
        )
        indexes: dict[str, set[str]] = defaultdict(set)
        for row in rows.mappings():
            indexes[row["schemaname"]].add(row["definition"])
    assert indexes["public"] == indexes["declared"] != set()
    await database.close()


async def _go_back(database: Database) -> None:
    """Bring a log to where it was before the second revision."""
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE handler_outcomes DROP COLUMN results")
        await connection.exec_driver_sql(
            "ALTER TABLE erasures DROP CONSTRAINT erasures_pkey, ADD PRIMARY KEY (account, component, person_hash)"
        )
        await connection.exec_driver_sql("DROP INDEX ix_events_rare")
        await connection.exec_driver_sql(
            "CREATE INDEX ix_events_rare ON events (state, id) WHERE state <> 'pending' AND state <> 'handled'"
        )
        await connection.exec_driver_sql("CREATE INDEX ix_events_install_id ON events (install_id)")
        await connection.exec_driver_sql("UPDATE event_log_revision SET version_num = '0001'")


async def test_a_log_with_events_in_it_is_brought_up_to_date(postgresql_url: str) -> None:
    """Outcomes of before there was a count of results are kept, and counted from nothing."""
    log, database = open_event_log(postgresql_url), Database.open(postgresql_url)
    await log.append(new_event())
    (event,) = await log.claim(COMPONENTS, limit=1, lease="lease", now=NOON, until=later(minutes=1))
    again = Settlement(event.id, event.lease, EventState.PENDING, NOON, (_RETRY,), available_at=NOON)
    assert await settle(log, again)
    await _go_back(database)
    with pytest.raises(EventLogOutdated):
        await log.check()
    await log.close()
    await migrate(database, "event_log")
    await database.close()
    log = open_event_log(postgresql_url)
    await log.check()
    (event,) = await log.claim(COMPONENTS, limit=1, lease="another", now=NOON, until=later(minutes=1))
    (before,) = event.unfinished
    assert (before.attempts, before.results, before.since) == (1, 0, NOON)
    assert await settle(log, Settlement(event.id, event.lease, EventState.HANDLED, NOON, (_RETRY,)))
    ((after,),) = [detail.handlers for detail in await log.show("m-1")]
    assert (after.attempts, after.results, after.since) == (2, 1, NOON)
    await log.close()


def test_outcomes_of_an_sqlite_log_from_before_there_was_a_count_of_results_are_read() -> None:
    (before,) = outcomes.read('[["h","retry",3,7000000,"away",8000000,5000000]]')
    assert (before.attempts, before.results) == (3, 0)
    (after,) = outcomes.read(outcomes.merge('[["h","retry",3,7000000,"away",8000000,5000000]]', [_RETRY], 9_000_000))
    assert (after.attempts, after.results, after.since) == (4, 1, before.since)


@asynccontextmanager
async def _somebody_reads(database: Database) -> AsyncIterator[tuple[AsyncConnection, int]]:
    """A transaction that has read from a table of the log and does not end; and its process."""
    async with database.engine.connect() as reader:
        await reader.exec_driver_sql("SELECT FROM handler_outcomes")
        yield reader, int(await reader.scalar(text("SELECT pg_backend_pid()")) or 0)


async def test_tables_that_others_hold_are_left_as_they_are_and_it_is_said_who_does(postgresql_url: str) -> None:
    database = Database.open(postgresql_url)
    await _go_back(database)
    async with _somebody_reads(database) as (reader, process), database.engine.connect() as unconcerned:
        await unconcerned.exec_driver_sql("SELECT FROM accounts")
        with pytest.raises(TablesInUse) as refused:
            await migrate(database, "event_log", patience=_IMPATIENT)
        problem = problem_of(refused.value)
        assert problem is not None
        (sentence,) = problem.sentences
        assert sentence.startswith("The event log was not migrated: others held its tables 2 times in a row (process ")
        assert f"process {process}, idle in transaction, since " in sentence
        assert sentence.count("process ") == 1, "who uses other tables is not named"
        assert not await is_current(database, "event_log")
        await reader.exec_driver_sql("SELECT FROM handler_outcomes")
    await migrate(database, "event_log", patience=_IMPATIENT)
    assert await is_current(database, "event_log")
    await database.close()


async def test_a_migration_that_waits_for_a_table_lets_others_pass(postgresql_url: str) -> None:
    database = Database.open(postgresql_url)
    await _go_back(database)
    async with _somebody_reads(database), database.engine.connect() as another:
        patience = Patience(lock_seconds=0.2, tries=1_000, pause_seconds=0.01)
        migrating = asyncio.create_task(migrate(database, "event_log", patience=patience))
        async with asyncio.timeout(20):
            while not await another.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                await another.rollback()
            await another.exec_driver_sql("SELECT FROM handler_outcomes")
        assert not migrating.done()
    await migrating
    assert await is_current(database, "event_log")
    await database.close()
