"""The audit: what it keeps of an act, and that the database itself refuses to change it."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import audit
from enable_with_segment.db.database import Database


async def _one_entry(database: Database) -> None:
    async with database.transaction() as session:
        await audit.add(
            session,
            actor="operator:operator@acme.example",
            action="install.disconnect",
            subject="ins_1",
            reason="asked for by the customer",
            now=utc_now(),
        )


async def test_da_04_an_entry_names_actor_reason_and_time(database: Database) -> None:
    before = utc_now()
    await _one_entry(database)
    async with database.transaction() as session:
        (entry,) = await audit.list_newest(session)
    assert (entry.actor, entry.action, entry.subject) == (
        "operator:operator@acme.example",
        "install.disconnect",
        "ins_1",
    )
    assert entry.reason == "asked for by the customer"
    assert before <= entry.at <= utc_now()


@pytest.mark.parametrize(
    "statement", ["UPDATE audit SET actor = 'somebody else'", "DELETE FROM audit", "TRUNCATE audit"]
)
async def test_da_04_the_database_refuses_to_change_an_entry(database: Database, statement: str) -> None:
    if statement.startswith("TRUNCATE") and database.dialect == "sqlite":
        statement = "DELETE FROM audit WHERE true"
    await _one_entry(database)
    with pytest.raises(DBAPIError, match="append-only"):
        async with database.engine.begin() as connection:
            await connection.execute(text(statement))
    async with database.transaction() as session:
        assert len(await audit.list_newest(session)) == 1
