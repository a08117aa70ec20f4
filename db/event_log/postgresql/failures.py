"""What a failure of PostgreSQL means to the event log: the database is away, or it refuses one row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from enable_with_segment.db.event_log.records import EventLogUnavailable

_FAILURES = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
#: What PostgreSQL says about a row, not about itself: the row's neighbours can be stored all the same.
_REFUSALS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Run a block with a time limit, in seconds; a database that does not answer in time has failed.

    Raises:
        EventLogUnavailable: the database failed; its ``__cause__`` says how.
    """
    with naming_failures():
        async with asyncio.timeout(seconds):
            yield


@contextmanager
def naming_failures() -> Iterator[None]:
    """Raise ``EventLogUnavailable`` for every failure of the database, or of the connection to it."""
    try:
        yield
    except _FAILURES as error:
        raise EventLogUnavailable(f"the event log's database failed: {type(error).__name__}") from error


def is_refusal(problem: EventLogUnavailable) -> bool:
    """Return True if PostgreSQL refused a row: its neighbours can still be stored."""
    cause = problem.__cause__
    return isinstance(cause, _REFUSALS) or (
        isinstance(cause, DBAPIError) and not isinstance(cause, InterfaceError | OperationalError)
    )
