"""Sign-in links: the way into the dashboard on your own machine, before there is an identity provider."""

from __future__ import annotations

import secrets
from datetime import timedelta

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import audit, operator_links
from enable_with_segment.db.database import Database
from enable_with_segment.oauth_app.operators.roles import Operator, Role

LIFETIME = timedelta(minutes=15)
_OPERATOR = Operator("local", Role.OPERATOR)


class SignInLinks:
    """Makes links that sign an operator in once. Only wired where ``BASE_URL`` is a loopback address."""

    def __init__(self, database: Database, *, base_url: str, clock: Clock = utc_now) -> None:
        self._database = database
        self._base_url = base_url
        self._clock = clock

    async def mint(self) -> str:
        """Make a link that works once, within 15 minutes."""
        token = secrets.token_urlsafe(32)
        now = self._clock()
        async with self._database.transaction() as session:
            await operator_links.add(session, token, now=now, expires_at=now + LIFETIME)
            await audit.add(session, actor="cli", action="operator_link.mint", subject="dashboard", now=now)
        return f"{self._base_url}/dashboard/sign-in/{token}"

    async def mint_first(self) -> str | None:
        """Make a link if there never was one: at the first start."""
        async with self._database.transaction() as session:
            if await operator_links.any_made(session):
                return None
        return await self.mint()

    async def use(self, token: str) -> Operator | None:
        """Use a link up; of several simultaneous calls one gets in."""
        async with self._database.transaction() as session:
            used = await operator_links.use(session, token, now=self._clock())
        return _OPERATOR if used else None
