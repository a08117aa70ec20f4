"""What provisioning keeps in the control store: each method is one short transaction."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.clock import Clock
from enable_with_segment.db.control import api_keys as stored_keys
from enable_with_segment.db.control import audit, destinations, install_tokens, installs, outbox
from enable_with_segment.db.control.tables import Install, InstallStatus
from enable_with_segment.db.database import Database
from enable_with_segment.installs import connection_state
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.connection_state import ConnectionState
from enable_with_segment.installs.provisioning.decision import Seen
from enable_with_segment.installs.provisioning.plan import Component, Plan, ProvisioningEnded
from enable_with_segment.installs.reasons import (
    DISCONNECT_WAITING,
    EXPLANATIONS,
    UNCONFIRMED,
    WAITING,
    Reason,
    explain,
)
from enable_with_segment.segment_api.names import destination_name

logger = logging.getLogger(__name__)

DISCONNECT = "disconnect"
"""The kind of the outbox entry that switches a destination off."""

OVERLAP = timedelta(hours=24)
"""How long a replaced key keeps working, counted from when Segment has its successor (contract case 59)."""

_WORKING = {InstallStatus.CONNECTED, InstallStatus.RECEIVING}
_CERTAIN_AT_ONCE = {
    Reason.KEY_DIFFERS,
    Reason.COMPONENT_UNKNOWN,
    Reason.SCOPE_WITHOUT_SOURCE,
    Reason.DESTINATION_CREATE_FAILED,
    Reason.DESTINATION_UPDATE_FAILED,
}
"""Reasons that are no answer of Segment's, or that several answers in one run agree on."""


class ProvisioningRecords:
    """Installs, keys and destinations, as provisioning moves them along."""

    def __init__(
        self, database: Database, api_keys: ApiKeys, components: Mapping[str, Component], clock: Clock
    ) -> None:
        self._database = database
        self._api_keys = api_keys
        self._components = components
        self._clock = clock

    async def plan(self, install_id: str) -> Plan | None:
        """Store what is wanted, its key minted in the same transaction. ``None`` for a disconnected install.

        Raises:
            ProvisioningEnded: nothing can be provisioned for this install.
            KeyError: no such install.
        """
        now = self._clock()
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            if install is None:
                raise KeyError(install_id)
            if install.status.over:
                return None
            component = self._components.get(install.component)
            if component is None:
                raise ProvisioningEnded(Reason.COMPONENT_UNKNOWN)
            if install.source_name is None:
                raise ProvisioningEnded(Reason.SCOPE_WITHOUT_SOURCE)
            name = destination_name(install.source_name, component.destination_slug)
            key_id = await self._ensure_key(session, install)
            stored = await destinations.get(session, install_id)
            known = stored.desired if stored is not None and stored.name == name else {}
            same_settings = known.get("settings") == install.settings
            plan = Plan(
                install_id=install_id,
                account=install.account,
                name=name,
                slug=component.destination_slug,
                key_id=key_id,
                api_key=await self._api_keys.reveal(session, key_id, purpose="provisioning"),
                defaults=component.default_settings,
                chosen=dict(install.settings),
                applied=same_settings and known.get("applied") is True,
                ours=known.get("ours") is True,
                verified=bool(known and stored and stored.api_key_id == key_id and stored.verified_at is not None),
                established=known.get("applied") is True,
                made_at=now,
            )
            if not plan.verified or not same_settings:
                await self._want(session, plan, ours=plan.ours, applied=plan.applied)
            return plan

    async def note_ours(self, plan: Plan) -> Plan:
        """Remember, before the first write, that writing is right: what stands there after a crash is then ours."""
        async with self._database.transaction() as session:
            await self._want(session, plan, ours=True, applied=plan.applied)
        return replace(plan, ours=True, verified=False)

    async def connected(self, plan: Plan, seen: Seen, *, changed: bool) -> None:
        """Record a destination that is as planned."""
        now = self._clock()
        async with self._database.transaction() as session:
            install = await installs.lock(session, plan.install_id)
            stored = await destinations.get(session, plan.install_id)
            if install is None or stored is None or stored.api_key_id != plan.key_id:
                return  # the key was rotated meanwhile; that run goes on
            if install.status.over:
                # Disconnected while we were switching it on: switch it off once more.
                await outbox.add(session, DISCONNECT, plan.install_id, now=now, payload={"delete": False})
                return
            await self._want(session, plan, ours=True, applied=True)
            shown = {"enabled": seen.enabled, "key": seen.key.value}
            await destinations.saw(session, plan.install_id, seen=shown, now=now, verified=True)
            arrived = install.last_event_at is not None and install.last_event_at >= plan.made_at
            receiving = arrived or install.status is InstallStatus.RECEIVING
            status = InstallStatus.RECEIVING if receiving else InstallStatus.CONNECTED
            if install.status is not status or install.status_reason is not None:
                await installs.set_status(session, plan.install_id, status, now=now)
            await connection_state.note(session, install, ConnectionState.CONNECTED, now=now)
            await install_tokens.note_accepted(session, plan.install_id)
            await self._expire_replaced_keys(session, plan)
            if changed:
                await audit.add(session, actor="service", action="destination.write", subject=plan.install_id, now=now)

    async def ended(self, install_id: str, reason: Reason, *, detail: str = "") -> None:
        """Record why a run ended without a connection; a disconnected install stays as it is.

        A reason that one answer of Segment gave is only noted first. It is believed when the next run has it, too.
        """
        now = self._clock()
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            if install is None or install.status.over:
                return
            status, sentence = explain(reason, source=install.source_name, detail=detail)
            if is_to_be_confirmed(reason, install.status, noted=install.status_reason):
                text = f"{UNCONFIRMED} ({detail})" if detail else UNCONFIRMED
                await installs.set_status(
                    session, install.id, install.status, now=now, reason=reason.value, detail=text
                )
                logger.warning("provisioning of %s: %s (%s); to be confirmed", install_id, reason.value, detail)
            elif (install.status, install.status_reason, install.status_detail) != (status, reason.value, sentence):
                level = logging.ERROR if EXPLANATIONS[reason].alarm else logging.WARNING
                logger.log(level, "provisioning of %s ended: %s (%s)", install_id, reason.value, detail)
                await connection_state.set_status(
                    session, install, status, now=now, reason=reason.value, detail=sentence
                )

    async def waiting(self, install_id: str, reason: Reason) -> None:
        """Show the customer that it takes longer, and why; only while the install is being set up."""
        await self._while_provisioning(install_id, InstallStatus.PROVISIONING, reason, WAITING[reason])

    async def given_up(self, install_id: str, reason: Reason) -> None:
        """Record that retrying has ended, and what stood in the way; an install that works stays as it is."""
        status, sentence = explain(reason)
        await self._while_provisioning(install_id, status, reason, sentence)

    async def _while_provisioning(self, install_id: str, status: InstallStatus, reason: Reason, sentence: str) -> None:
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            if install is not None and install.status is InstallStatus.PROVISIONING:
                await connection_state.set_status(
                    session, install, status, now=self._clock(), reason=reason.value, detail=sentence
                )

    async def disconnect_waiting(self, install_id: str) -> None:
        """Show that switching the destination off takes longer."""
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            if install is not None and install.status is InstallStatus.DISCONNECTING:
                await installs.set_status(
                    session,
                    install_id,
                    install.status,
                    now=self._clock(),
                    reason=install.status_reason,
                    detail=DISCONNECT_WAITING,
                )

    async def _expire_replaced_keys(self, session: AsyncSession, plan: Plan) -> None:
        """Begin the overlap of the keys that the planned one replaced, now that Segment holds it (case 59)."""
        held = await stored_keys.get(session, plan.key_id)
        for key in await stored_keys.usable_of_install(session, plan.install_id):
            if held is not None and key.created_at < held.created_at:
                await self._api_keys.expire(session, key.id, at=self._clock() + OVERLAP, actor="service")

    async def _want(self, session: AsyncSession, plan: Plan, *, ours: bool, applied: bool) -> None:
        await destinations.want(
            session,
            plan.install_id,
            name=plan.name,
            api_key_id=plan.key_id,
            desired=plan.desired(ours=ours, applied=applied),
        )

    async def _ensure_key(self, session: AsyncSession, install: Install) -> str:
        current = await stored_keys.current_of_install(session, install.id)
        if current is not None:
            return current.id
        minted = await self._api_keys.mint(
            session, account=install.account, component=install.component, install_id=install.id
        )
        return minted.id


def is_to_be_confirmed(reason: Reason, status: InstallStatus, *, noted: str | None) -> bool:
    """Return True if a reason is only noted for now.

    Args:
        status: the install's. One that has failed already has nothing to lose.
        noted: the reason that its record gives until now.
    """
    at_stake = status is InstallStatus.PROVISIONING or status in _WORKING
    return at_stake and reason not in _CERTAIN_AT_ONCE and noted != reason.value
