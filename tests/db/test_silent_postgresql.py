"""A control store whose PostgreSQL goes silent in the middle of a transaction."""

from __future__ import annotations

import asyncio

import pytest

from enable_with_segment.db import postgresql_connection
from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import accounts
from enable_with_segment.db.database import Database
from enable_with_segment.db.migrate import migrate
from tests.relay import relayed

_BRIEFLY = 0.2
_GIVES_UP = 60
"""Only what waits for good takes so long."""


@pytest.mark.parametrize("word", [b"INSERT INTO accounts", b"COMMIT"], ids=["a statement", "the commit"])
async def test_a_transaction_has_an_end_and_the_next_one_succeeds(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, word: bytes
) -> None:
    async with relayed(postgresql_url) as (relay, url):
        database = Database.open(url)
        await migrate(database, "control")

        async def add() -> None:
            async with database.transaction() as session:
                await accounts.ensure(session, "acme", now=utc_now())

        monkeypatch.setattr(postgresql_connection, "_ALIVE_SECONDS", _BRIEFLY)
        relay.silence_at(word)
        with monkeypatch.context() as impatient:
            impatient.setattr(database, "_seconds", _BRIEFLY)
            adding = asyncio.create_task(add())
            ended, _ = await asyncio.wait([adding], timeout=_GIVES_UP)
        assert ended, "it waits for good"
        assert isinstance(adding.exception(), TimeoutError)
        relay.silence()
        relay.hang_up()
        await add()
        await database.close()
