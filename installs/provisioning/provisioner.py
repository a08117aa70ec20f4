"""Provisioning: the customer's destination in Segment made, kept, given a new key, and switched off.

Everything here may be cut off between any two steps and run again: what is wanted is stored before Segment is
asked, Segment is looked at before it is changed, and every change is looked at afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Literal

from enable_with_segment.components.partner_call import PartnerFunctionFailed
from enable_with_segment.db.clock import Clock, utc_now
from enable_with_segment.db.control import api_keys as stored_keys
from enable_with_segment.db.control import audit, destinations, installs, outbox
from enable_with_segment.db.control.tables import OutboxEntry
from enable_with_segment.db.database import Database
from enable_with_segment.installs import connection_state
from enable_with_segment.installs.acts import InstallAct, lock_for
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.provisioning.calls import InstallCalls
from enable_with_segment.installs.provisioning.plan import Component, ProvisioningEnded
from enable_with_segment.installs.provisioning.records import DISCONNECT, ProvisioningRecords
from enable_with_segment.installs.provisioning.run import ProvisioningRun
from enable_with_segment.installs.reasons import Reason, explain
from enable_with_segment.installs.record import PROVISION
from enable_with_segment.installs.removal import erase_access
from enable_with_segment.installs.tokens import AccessLost, InstallTokens
from enable_with_segment.segment_api.config_api import ConfigApi
from enable_with_segment.segment_api.errors import (
    ConfigApiError,
    InsufficientScope,
    SegmentUnavailable,
)

logger = logging.getLogger(__name__)

ROTATE_KEY = "rotate_key"

OVERLAP = timedelta(hours=24)
"""How long a replaced key keeps working, counted from when Segment has its successor (contract case 59)."""


class Provisioner:
    """Provisions, disconnects, and rotates keys.

    Args:
        components: by our own names.
        overwrite_policy: ``always`` replaces another key in an existing destination without asking (case 50).
    """

    def __init__(
        self,
        database: Database,
        api_keys: ApiKeys,
        tokens: InstallTokens,
        config_api: ConfigApi,
        components: Mapping[str, Component],
        *,
        clock: Clock = utc_now,
        overwrite_policy: Literal["ask", "always"] = "ask",
    ) -> None:
        self._database = database
        self._api_keys = api_keys
        self._tokens = tokens
        self._config_api = config_api
        self._records = ProvisioningRecords(database, api_keys, components, clock)
        self._clock = clock
        self._overwrite_always = overwrite_policy == "always"

    def outbox_handlers(self) -> dict[str, Callable[[OutboxEntry], Awaitable[None]]]:
        """Return the handlers for the outbox, by kind of entry."""
        return {
            PROVISION: self._handle_provision,
            DISCONNECT: self._handle_disconnect,
            ROTATE_KEY: self._handle_rotation,
        }

    async def provision(self, install_id: str, *, overwrite: bool = False) -> None:
        """Bring an install's destination about and write down how that ended.

        An install that was disconnected is left alone.

        Args:
            overwrite: the customer confirmed that another key in the destination may be replaced.

        Raises:
            SegmentUnavailable: not now; try again later.
            KeyError: no such install.
        """
        await self._provision(install_id, overwrite=overwrite)

    async def disconnect(self, install_id: str, *, delete: bool = False, actor: str) -> None:
        """Queue switching the install's destination off, and erasing its keys and token (wake the outbox afterwards).

        Keys and token are refused and erased when Segment was seen to switch it off, so that what it delivers until
        then arrives: a 401 would lose those events for good. When that cannot be had, they are erased all the same.

        Args:
            delete: delete the destination instead.
            actor: who asked, for the audit.

        Raises:
            KeyError: no such install.
            ActRefused: it is disconnected, or about to be.
        """
        now = self._clock()
        status, sentence = explain(Reason.DISCONNECT_REQUESTED)
        async with self._database.transaction() as session:
            install = await lock_for(session, InstallAct.DISCONNECT, install_id)
            reason = Reason.DISCONNECT_REQUESTED.value
            await connection_state.set_status(session, install, status, now=now, reason=reason, detail=sentence)
            await outbox.add(session, DISCONNECT, install_id, now=now, payload={"delete": delete})
            await audit.add(
                session,
                actor=actor,
                action="install.disconnect",
                subject=install_id,
                now=now,
                detail={"delete": delete},
            )

    async def rotate_key(self, install_id: str, *, overlap: timedelta = OVERLAP, actor: str) -> None:
        """Mint a new key and queue pushing it to Segment (wake the outbox afterwards).

        The replaced keys go on working, and their ``overlap`` begins only when Segment is seen to hold the new one.

        Raises:
            KeyError: no such install.
            ActRefused: it is not connected.
            PartnerFunctionFailed: as ``ApiKeys.mint``.
        """
        async with self._database.transaction() as session:
            install = await lock_for(session, InstallAct.ROTATE_KEY, install_id)
            replaced = [
                key.id
                for key in await stored_keys.list_all(session, account=install.account)
                if key.install_id == install_id and key.revoked_at is None and key.expires_at is None
            ]
            await self._api_keys.mint(
                session, account=install.account, component=install.component, install_id=install_id, actor=actor
            )
            payload = {"replaced": replaced, "overlap_seconds": overlap.total_seconds()}
            await outbox.add(session, ROTATE_KEY, install_id, now=self._clock(), payload=payload)

    async def give_up(self, entry: OutboxEntry, error: Exception) -> None:
        """Write down that the outbox stopped trying an entry."""
        logger.error("gave up on %s of %s: %s", entry.kind, entry.install_id, type(error).__name__)
        if entry.kind == PROVISION:
            await self._records.given_up(entry.install_id, _in_the_way(error))
        elif entry.kind == DISCONNECT:
            await self._erase(entry.install_id, switched_off=False)

    async def _handle_provision(self, entry: OutboxEntry) -> None:
        await self._provision(entry.install_id, overwrite=bool(entry.payload.get("overwrite")))

    async def _handle_disconnect(self, entry: OutboxEntry) -> None:
        await self._switch_off(entry.install_id, delete=bool(entry.payload.get("delete")))

    async def _handle_rotation(self, entry: OutboxEntry) -> None:
        if not await self._provision(entry.install_id, overwrite=False):
            return
        expires_at = self._clock() + timedelta(seconds=float(entry.payload["overlap_seconds"]))
        async with self._database.transaction() as session:
            for key_id in entry.payload["replaced"]:
                await self._api_keys.expire(session, key_id, at=expires_at, actor="service")

    async def _provision(self, install_id: str, *, overwrite: bool) -> bool:
        """Run once; tells whether the destination is as it should be."""
        try:
            plan = await self._records.plan(install_id)
            if plan is None:
                return False
            calls = InstallCalls(self._config_api, self._tokens, install_id)
            run = ProvisioningRun(plan, calls, self._records, self._api_keys)
            await run.run(overwrite=overwrite or self._overwrite_always)
        except ProvisioningEnded as ended:
            await self._records.ended(install_id, ended.reason, detail=ended.detail)
        except AccessLost as lost:
            logger.warning("provisioning of %s ended: %s", install_id, lost.reason.value)
        except InsufficientScope as refused:
            await self._records.ended(install_id, Reason.SCOPE_TOO_SMALL, detail=refused.text)
        except ConfigApiError as refused:
            detail = refused.text or f"HTTP {refused.status}"
            await self._records.ended(install_id, Reason.REQUEST_REFUSED, detail=detail)
        except (SegmentUnavailable, PartnerFunctionFailed) as error:
            await self._records.waiting(install_id, _in_the_way(error))
            raise
        else:
            return True
        return False

    async def _switch_off(self, install_id: str, *, delete: bool) -> None:
        """Switch the destination off, or delete it, unless the install was connected again meanwhile."""
        async with self._database.transaction() as session:
            install = await installs.get(session, install_id)
            stored = await destinations.get(session, install_id)
        if install is None or not install.status.over:
            return
        if stored is None:  # nothing was ever set up
            await self._erase(install_id, switched_off=True)
            return
        calls = InstallCalls(self._config_api, self._tokens, install_id)
        try:
            if delete:
                await calls.delete(stored.name)
            else:
                await calls.switch_off(stored.name)
        except (AccessLost, ConfigApiError) as refused:
            logger.warning("the destination of %s could not be switched off: %s", install_id, refused)
            await self._erase(install_id, switched_off=False)
        else:
            await self._erase(install_id, switched_off=True)

    async def _erase(self, install_id: str, *, switched_off: bool) -> None:
        """Refuse and erase an install's keys and token, and say what became of its destination: the last step."""
        now = self._clock()
        reason = Reason.DISCONNECTED_BY_REQUEST if switched_off else Reason.DESTINATION_LEFT_ON
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            if install is None:
                return
            if not install.status.over:
                # Connected again while Segment was asked to switch it off: it is to be switched on once more.
                await outbox.add(session, PROVISION, install_id, now=now, payload={"overwrite": False})
                return
            await erase_access(session, self._api_keys, install, reason=reason, now=now)
            action = "destination.switch_off" if switched_off else "destination.left_on"
            await audit.add(session, actor="service", action=action, subject=install_id, now=now)


def _in_the_way(error: Exception) -> Reason:
    """Return what holds provisioning up; the only function of the partner's in it makes API keys."""
    return Reason.API_KEY_HOOK_FAILED if isinstance(error, PartnerFunctionFailed) else Reason.SEGMENT_UNAVAILABLE
