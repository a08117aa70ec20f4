"""Reconciliation: is the destination in Segment still what we left there, and does Segment still know the install?

Segment tells nobody when a customer uninstalls the App or changes the destination (contract 2.7, pitfall 26), so
every install is looked at from time to time. Looking is an outbox step of its own: spaced, and tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import audit, destinations, install_tokens, installs, outbox
from enable_with_segment.db.control.tables import Install, InstallStatus, OutboxEntry
from enable_with_segment.db.database import Database
from enable_with_segment.installs import connection_state
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.connection_state import ANNOUNCE, ConnectionState
from enable_with_segment.installs.drift import SENTENCES, Drift, drift_of
from enable_with_segment.installs.provisioning.calls import InstallCalls
from enable_with_segment.installs.provisioning.decision import HeldKey, held_key
from enable_with_segment.installs.record import queue_provisioning
from enable_with_segment.installs.tokens import ERASE_REMOVED, AccessLost, InstallTokens
from enable_with_segment.segment_api.config_api import ConfigApi
from enable_with_segment.segment_api.destination import Destination
from enable_with_segment.segment_api.errors import ConfigApiError

logger = logging.getLogger(__name__)

RECONCILE = "reconcile"
SPACING = timedelta(seconds=1)
"""Between two looks, over all processes: sixty a minute leave most of Segment's 200 requests to customers."""

Policy: TypeAlias = Literal["report", "repair"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at: a destination by name, and the key it should hold."""

    install_id: str
    account: str
    name: str
    key_id: str
    api_key: str = field(repr=False)
    failing: bool


class Reconciler:
    """Looks at one install at a time.

    Args:
        policy: whether drift is only reported, or repaired by provisioning, which asks before it replaces a key.
    """

    def __init__(
        self,
        database: Database,
        api_keys: ApiKeys,
        tokens: InstallTokens,
        config_api: ConfigApi,
        *,
        policy: Policy = "report",
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._api_keys = api_keys
        self._tokens = tokens
        self._config_api = config_api
        self._policy = policy
        self._clock = clock

    def outbox_handlers(self) -> dict[str, Callable[[OutboxEntry], Awaitable[None]]]:
        """Return the handlers for the outbox, by kind of entry."""
        return {RECONCILE: self._handle}

    async def check(self, install_id: str) -> Drift | None:
        """Look at one install and write down what was seen; returns the drift, ``None`` also where there is nothing
        to look at.

        Raises:
            SegmentUnavailable: not now; try again later.
        """
        try:
            subject = await self._subject(install_id)
            if subject is None:
                return None
            destination = await InstallCalls(self._config_api, self._tokens, install_id).get(subject.name)
        except AccessLost as refused:
            logger.info("%s was not looked at: %s", install_id, refused)  # the tokens have written down why
            return None
        except ConfigApiError as refused:
            logger.warning("the destination of %s cannot be looked at: %s", install_id, refused)
            return None
        key = await self._held_key(subject, destination)
        drift = drift_of(destination, key)
        await self._record(subject, destination, key, drift)
        return drift

    async def _handle(self, entry: OutboxEntry) -> None:
        await self.check(entry.install_id)

    async def _subject(self, install_id: str) -> Subject | None:
        async with self._database.transaction() as session:
            install = await installs.get(session, install_id)
            if install is None or not installs.is_watched(install):
                return None
            busy = {entry.kind for entry in await outbox.open_of_install(session, install_id)}
            if busy - {RECONCILE, ANNOUNCE, ERASE_REMOVED}:
                return None
            stored = await destinations.get(session, install_id)
            if install.status is InstallStatus.FAILED or stored is None:
                # It was given up, and what was in the way may be gone.
                if install.source_name is not None:
                    await queue_provisioning(session, install_id, now=self._clock())
                return None
            try:
                key = await self._api_keys.reveal(session, stored.api_key_id, purpose="reconciliation")
            except KeyError:  # it was revoked; whoever did that decides how it goes on
                return None
            failing = install.status is InstallStatus.NEEDS_RECONNECT
            return Subject(install_id, install.account, stored.name, stored.api_key_id, key, failing)

    async def _held_key(self, subject: Subject, destination: Destination | None) -> HeldKey:
        if destination is None:
            return HeldKey.UNKNOWN
        holder = None
        if destination.api_key is not None and destination.api_key != subject.api_key:
            holder = (await self._api_keys.look_up(destination.api_key)).holder
        is_ours = holder is not None and holder.account == subject.account
        return held_key(destination, subject.api_key, is_ours=is_ours)

    async def _record(
        self, subject: Subject, destination: Destination | None, key: HeldKey, drift: Drift | None
    ) -> None:
        now = self._clock()
        async with self._database.transaction() as session:
            install = await installs.lock(session, subject.install_id)
            stored = await destinations.get(session, subject.install_id)
            if install is None or stored is None or stored.api_key_id != subject.key_id:
                return
            if not installs.is_watched(install):
                return
            await install_tokens.note_accepted(session, subject.install_id)
            if subject.failing:
                if drift is None or self._policy == "repair" or stored.verified_at is None:
                    await installs.set_status(session, install.id, InstallStatus.PROVISIONING, now=now)
                    await queue_provisioning(session, install.id, now=now)
                    return
                await installs.set_status(session, install.id, InstallStatus.CONNECTED, now=now)
            seen: dict[str, object] = {"deleted": True}
            if destination is not None:
                seen = {"enabled": destination.enabled, "key": key.value}
            as_wanted = drift is None and key is not HeldKey.OURS
            await destinations.saw(session, install.id, seen=seen, now=now, verified=as_wanted)
            if key is HeldKey.OURS:  # a rotation that was not finished goes on
                await queue_provisioning(session, install.id, now=now)
            if drift is None:
                await connection_state.note(session, install, ConnectionState.CONNECTED, now=now)
            else:
                await self._drifted(session, install, drift, now=now)

    async def _drifted(self, session: AsyncSession, install: Install, drift: Drift, *, now: datetime) -> None:
        logger.warning("%s has drifted: %s", install.id, drift.value)
        if install.connection_reason != drift.value:
            await audit.add(session, actor="service", action=f"install.{drift.value}", subject=install.id, now=now)
        await connection_state.note(
            session, install, ConnectionState.DRIFTED, now=now, reason=drift.value, detail=SENTENCES[drift]
        )
        if self._policy == "repair":
            await queue_provisioning(session, install.id, now=now)


async def queue_checks(session: AsyncSession, install_ids: Collection[str], *, now: datetime) -> int:
    """Queue looks at installs, a second apart and behind those that are queued; returns how many were not yet."""
    queued = await outbox.open_of_kind(session, RECONCILE)
    due = max([now, *queued.values()])
    wanted = [install_id for install_id in install_ids if install_id not in queued]
    for place, install_id in enumerate(wanted, start=1):
        await outbox.add(session, RECONCILE, install_id, now=now, due=due + place * SPACING)
    return len(wanted)
