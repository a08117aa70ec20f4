"""Which components and handlers an operator has paused: rows of the control store that every process reads."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from enable_with_segment.components.handler import Handler
from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import pauses
from enable_with_segment.db.database import Database

_REREAD_AFTER = timedelta(seconds=1)


class PausesUnknown(Exception):
    """What is paused was never read, so nothing may be handed to anybody."""


class Pauses:
    """What is paused, as it stood a second ago at most; as it stood last while the store cannot be read."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock
        self._read_at: datetime | None = None
        self._components: frozenset[str] = frozenset()
        self._handlers: frozenset[tuple[str, str]] = frozenset()

    async def refresh(self) -> None:
        """Read the pauses again, if that was not done within the last second.

        Raises:
            PausesUnknown: the store cannot be read, and never could.
        """
        now = self._clock()
        if self._read_at is not None and timedelta(0) <= now - self._read_at < _REREAD_AFTER:
            return
        try:
            async with self._database.transaction() as session:
                rows = await pauses.get_all(session)
        except (SQLAlchemyError, OSError) as error:
            if self._read_at is None:
                raise PausesUnknown(f"what is paused cannot be read ({type(error).__name__})") from error
            return
        self._read_at = now
        self._components = frozenset(row.component for row in rows if not row.handler)
        self._handlers = frozenset((row.component, row.handler) for row in rows if row.handler)

    def component_is_paused(self, component: str) -> bool:
        """Tell whether nothing of a component is to be handled."""
        return component in self._components

    def handler_is_paused(self, component: str, handler: Handler) -> bool:
        """Tell whether a handler is not to be called."""
        return bool(self._handlers) and any(
            component == where and handler.is_called(name) for where, name in self._handlers
        )
