"""How much PostgreSQL reads to choose what is handed out while deletions wait, and to find what one erases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.log import StoredEventLog
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.postgresql import deletion
from enable_with_segment.db.event_log.postgresql.choosing import choose
from enable_with_segment.db.event_log.postgresql.log import SqlEventLog
from enable_with_segment.db.event_log.records import Settlement
from enable_with_segment.db.event_log.states import EventState
from tests.db.event_log.claims import store
from tests.db.event_log.events import COMPONENTS, later

_WAITING = 60
_DEVICES = 2_000
#: Statistics would come or not come while a test runs, and a plan is to be good without them.
_WITHOUT_STATISTICS = """
DO $$ DECLARE part regclass; BEGIN
  FOR part IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relname ~ '^(events_|handler_outcomes_|erasures)' LOOP
    EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', part);
  END LOOP;
END $$
"""
#: The first event once more on each of some devices, handled.
_ON_DEVICES = text(
    "INSERT INTO events (id, scope, received_at, occurred_at, available_at, account, component, key_id, type,"
    " person_hash, device_hash, state) SELECT nextval('event_ids'), scope, received_at, occurred_at, available_at,"
    " account, component, key_id, type, person_hash, 'device ' || i, 'handled' FROM events, generate_series(1, :most) i"
)
_ROWS_READ = text(
    "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables"
)


@pytest.fixture
async def log(postgresql_url: str) -> AsyncIterator[SqlEventLog]:
    log = open_event_log(postgresql_url)
    assert isinstance(log, SqlEventLog)
    yield log
    await log.close()


@pytest.fixture
async def postgresql(postgresql_url: str) -> AsyncIterator[Database]:
    database = Database.open(postgresql_url)
    async with database.engine.begin() as connection:
        await connection.execute(text(_WITHOUT_STATISTICS))
    yield database
    await database.close()


@pytest.mark.parametrize("first", ["identify", "alias"])
async def test_each_deletion_that_waits_costs_the_same_however_many_wait(
    postgresql: Database, log: StoredEventLog, first: str
) -> None:
    now, until = later(minutes=2), later(minutes=3)
    for number in range(_WAITING):
        other = f"lead-{number}" if first == "alias" else None
        await store(log, f"e-{number}", type=first, person_hash=f"person-{number}", previous_hash=other)
    held = await log.claim(COMPONENTS, limit=_WAITING, lease="lease", now=now, until=until)
    assert len(held) == _WAITING
    if first == "alias":  # they are tried again later, and are handed over before the deletes
        await log.settle_all(
            [Settlement(event.id, "lease", EventState.PENDING, now, available_at=until) for event in held]
        )
    for number in range(_WAITING):
        await store(log, f"d-{number}", at=10, type="delete", person_hash=f"person-{number}")
    async with postgresql.engine.begin() as connection:
        assert not await choose(connection, COMPONENTS, limit=500, now=now)
        assert (await connection.execute(_ROWS_READ)).scalar_one() < 10 * _WAITING


async def test_each_event_of_a_deletion_costs_the_same_however_many_ids_that_covers(
    postgresql: Database, log: SqlEventLog
) -> None:
    await store(log, "e-0")
    async with postgresql.engine.begin() as connection:
        await connection.execute(_ON_DEVICES, {"most": _DEVICES})
    await store(log, "d-1", at=10, type="delete")
    claimed = await log.claim(COMPONENTS, limit=9, lease="lease", now=later(minutes=2), until=later(minutes=3))
    (delete,) = (event for event in claimed if event.type == "delete")
    async with log._database.engine.begin() as connection:  # planned as the log's statements are
        covered = await deletion.find_covered(connection, delete.id, delete.lease, spares_deletes=False)
        assert covered is not None
        assert (covered.merged_ids, len(covered.event_ids)) == (_DEVICES, _DEVICES + 1)
        assert (await connection.execute(_ROWS_READ)).scalar_one() < 10 * _DEVICES
