"""Sessions of the dashboard: on our side, ended by being idle, by age, by signing out, and by ``panic --erase``."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import audit, operator_sessions
from enable_with_segment.db.control.tables import OperatorSession
from enable_with_segment.db.database import Database
from enable_with_segment.oauth_app.operators.roles import AccessLists, Operator, Role

IDLE = timedelta(minutes=30)
LIFETIME = timedelta(hours=12)
_NOTE_EVERY = timedelta(minutes=1)


class Sessions:
    """Begins, recognises and ends sessions. The cookie has 256 random bits; its hash is stored."""

    def __init__(self, database: Database, access: AccessLists, *, secure: bool, clock: Clock = utc_now) -> None:
        self._database = database
        self._access = access
        self._clock = clock
        self.cookie_name = "__Host-operator" if secure else "operator"
        self.secure = secure

    async def begin(self, operator: Operator, *, by: str) -> str:
        """Begin a session and return its cookie's value, which is new for every login.

        Args:
            by: how the operator signed in, for the audit.
        """
        token = secrets.token_urlsafe(32)
        now = self._clock()
        async with self._database.transaction() as session:
            await operator_sessions.purge(session, before=now - timedelta(days=1))
            await operator_sessions.add(
                session,
                token,
                operator=operator.name,
                role=operator.role.value,
                granted_by=operator.granted_by,
                now=now,
                expires_at=now + LIFETIME,
            )
            detail = {"role": operator.role.value, "by": by}
            await audit.add(
                session, actor=operator.actor, action="operator.sign_in", subject="dashboard", now=now, detail=detail
            )
        return token

    async def look(self, token: str | None) -> Operator | None:
        """Tell who a cookie belongs to; ``None`` when its session has ended, or its operator is on no list any more."""
        if not token:
            return None
        now = self._clock()
        async with self._database.transaction() as session:
            found = await operator_sessions.find(session, token)
            if found is None or not is_alive(found, now=now):
                return None
            operator = Operator(found.operator, Role(found.role), found.granted_by)
            if not self._access.still_allows(operator):
                return None
            if now - found.last_seen_at >= _NOTE_EVERY:
                await operator_sessions.seen(session, token, now=now)
        return operator

    async def end(self, token: str, operator: Operator) -> None:
        """End a session."""
        now = self._clock()
        async with self._database.transaction() as session:
            await operator_sessions.end(session, token, now=now)
            await audit.add(session, actor=operator.actor, action="operator.sign_out", subject="dashboard", now=now)


def is_alive(found: OperatorSession, *, now: datetime) -> bool:
    """Tell whether a session still stands."""
    return found.ended_at is None and now < found.expires_at and now - found.last_seen_at < IDLE
