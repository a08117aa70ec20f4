"""PostgreSQL commits as its server is told to; nothing of ours lets a commit return before it is on the disk."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.opening import open_event_log
from tests.db.event_log.events import new_event

_NOTE_HOW_A_COMMIT_WILL_GO = (
    "CREATE TABLE noted (synchronous_commit text)",
    """
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO noted VALUES (current_setting('synchronous_commit'));
        RETURN NULL;
    END $$
    """,
    "CREATE TRIGGER note AFTER INSERT ON message_keys FOR EACH STATEMENT EXECUTE FUNCTION note()",
)


async def test_wh_08_no_session_that_stores_events_has_its_commits_return_early(postgresql_url: str) -> None:
    # That a server is set to let them return early is for the doctor to find.
    database, log = Database.open(postgresql_url), open_event_log(postgresql_url)
    try:
        async with database.engine.begin() as connection:
            for statement in _NOTE_HOW_A_COMMIT_WILL_GO:
                await connection.execute(text(statement))
        await log.append(new_event("alone"))
        await asyncio.gather(*(log.append(new_event(f"m-{number}")) for number in range(100)))
        async with database.engine.connect() as connection:
            noted = (await connection.scalars(text("SELECT synchronous_commit FROM noted"))).all()
        assert len(noted) >= 2
        assert set(noted) == {"on"}
    finally:
        await log.close()
        await database.close()
