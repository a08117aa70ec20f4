"""The revisions build exactly the tables that the code uses."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from db.database import Database
from db.event_log.opening import open_event_log
from db.event_log.records import EventLogOutdated, HandlerResult, Settlement
from db.event_log.sqlite import outcomes
from db.event_log.tables import EventLogTable, EventState, HandlerState
from db.migrate import migrate
from tests.event_log.events import COMPONENTS, NOON, later, new_event, settle

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


async def test_a_log_with_events_in_it_is_brought_up_to_date(postgresql_url: str) -> None:
    """Outcomes of before there was a count of results are kept, and counted from nothing."""
    log, database = open_event_log(postgresql_url), Database.open(postgresql_url)
    await log.append(new_event())
    (event,) = await log.claim(COMPONENTS, limit=1, lease="lease", now=NOON, until=later(minutes=1))
    again = Settlement(event.id, event.lease, EventState.PENDING, NOON, (_RETRY,), available_at=NOON)
    assert await settle(log, again)
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE handler_outcomes DROP COLUMN results")
        await connection.exec_driver_sql("UPDATE event_log_revision SET version_num = '0001'")
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
