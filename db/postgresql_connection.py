"""Connections to a PostgreSQL that may go silent on them.

A server that is gone without a word is noticed by TCP after a quarter of an hour, and behind a proxy never.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError

_ALIVE_SECONDS = 1.0
"""How long a connection may take to say that it is there, before a transaction is entrusted to it."""
_GOODBYE_SECONDS = 0.2
_WAS_USED = "was used"


class PostgresqlConnection(asyncpg.Connection):  # type: ignore[misc]  # the driver has no types
    """A connection that is closed in a moment, whether or not there is still somebody at the other end."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109  the driver's name
        """Take leave of the server, and let go of the connection in any case.

        Args:
            timeout: seconds; never more than a moment.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(min(timeout or _GOODBYE_SECONDS, _GOODBYE_SECONDS)):
                await super().close()


def drop_silent(engine: Engine) -> None:
    """Have an engine ask each pooled connection for a sign of life, and give all of them up when one gives none.

    This takes one round trip and has an end; SQLAlchemy's own ``pool_pre_ping`` takes three, and waits for good.
    """

    @event.listens_for(engine, "checkout")
    def _look(connection: Any, record: Any, _proxy: Any) -> None:
        if not record.info.get(_WAS_USED):
            record.info[_WAS_USED] = True
            return
        try:
            connection.run_async(_give_a_sign)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as problem:
            raise InvalidatePoolError from problem


async def _give_a_sign(connection: PostgresqlConnection) -> None:
    try:
        await connection.execute("SELECT 1", timeout=_ALIVE_SECONDS)
    except TimeoutError:
        connection.terminate()
        raise
