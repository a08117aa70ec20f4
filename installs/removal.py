"""Ending an install's access: the only place where its keys and token are erased, and what comes before that.

Segment tells nobody when a customer removes the App (contract 2.7), so a removal is concluded from refusals. It is
reported first: the keys go on working, because a delivery proves that the destination is still on. Erasing comes last,
when no event has come for the grace and Segment refuses once more. Until then ``keep`` undoes it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import audit, install_tokens, installs, outbox
from enable_with_segment.db.control.tables import Install, InstallStatus, OutboxEntry
from enable_with_segment.db.database import Database
from enable_with_segment.installs import connection_state
from enable_with_segment.installs.acts import InstallAct, is_removal_reported, lock_for
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.reasons import Reason, explain
from enable_with_segment.installs.record import queue_provisioning
from enable_with_segment.installs.tokens import ERASE_REMOVED, AccessLost, InstallTokens

logger = logging.getLogger(__name__)


class RemovedInstalls:
    """Erases the access of installs that were removed in Segment, once nothing speaks against it any more.

    Args:
        grace: how long no event may have come before keys and token are erased.
    """

    def __init__(
        self, database: Database, api_keys: ApiKeys, tokens: InstallTokens, *, grace: timedelta, clock: Clock = utc_now
    ) -> None:
        self._database = database
        self._api_keys = api_keys
        self._tokens = tokens
        self._grace = grace
        self._clock = clock

    def outbox_handlers(self) -> dict[str, Callable[[OutboxEntry], Awaitable[None]]]:
        """Return the handlers for the outbox, by kind of entry."""
        return {ERASE_REMOVED: self._handle}

    async def _handle(self, entry: OutboxEntry) -> None:
        """Ask Segment a last time, and erase when it refuses again and no event came meanwhile.

        Raises:
            SegmentUnavailable: an outage, or many installs turned bad together; ask again later.
        """
        if not await self._is_due(entry.install_id):
            return
        try:
            await self._tokens.renew(entry.install_id)
        except AccessLost as lost:
            if lost.reason is Reason.REMOVAL_REPORTED:
                await self._erase(entry.install_id)

    async def _is_due(self, install_id: str) -> bool:
        """Return True if the grace is over; an event that came meanwhile begins it anew."""
        async with self._database.transaction() as session:
            install = await installs.get(session, install_id)
            if install is None or not is_removal_reported(install):
                return False
            due = self._end_of_grace(install)
            if due is not None and due > self._clock():
                await outbox.add(session, ERASE_REMOVED, install_id, now=self._clock(), due=due)
                return False
        return True

    async def _erase(self, install_id: str) -> None:
        now = self._clock()
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            if install is None or not is_removal_reported(install):
                return
            due = self._end_of_grace(install)
            if due is not None and due > now:
                await outbox.add(session, ERASE_REMOVED, install_id, now=now, due=due)
                return
            await erase_access(session, self._api_keys, install, reason=Reason.INSTALL_REMOVED, now=now)
        logger.warning("erased the access of %s: it was removed in Segment", install_id)

    def _end_of_grace(self, install: Install) -> datetime | None:
        return None if install.last_event_at is None else install.last_event_at + self._grace


async def erase_access(
    session: AsyncSession, api_keys: ApiKeys, install: Install, *, reason: Reason, now: datetime
) -> None:
    """Refuse and erase the keys and the token of a locked install: the last step, which nothing undoes."""
    status, sentence = explain(reason)
    await api_keys.revoke_of_install(session, install.id, actor="service")
    await install_tokens.forget(session, install.id)
    await connection_state.set_status(session, install, status, now=now, reason=reason.value, detail=sentence)


async def keep(session: AsyncSession, install_id: str, *, actor: str, now: datetime) -> None:
    """Undo a disconnect that is under way, or a reported removal: the install is set up again with its keys.

    Raises:
        KeyError: no such install.
        ActRefused: there is nothing to undo, or no more.
    """
    await lock_for(session, InstallAct.KEEP, install_id)
    await installs.set_status(session, install_id, InstallStatus.PROVISIONING, now=now)
    await install_tokens.outdate(session, install_id, now=now)
    await install_tokens.clear_refusal(session, install_id)
    await queue_provisioning(session, install_id, now=now)
    await audit.add(session, actor=actor, action="install.keep", subject=install_id, now=now)
