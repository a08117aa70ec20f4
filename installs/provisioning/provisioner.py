"""Provisioning: the customer's destination in Segment made, kept, given a new key, and switched off.

Everything here may be cut off between any two steps and run again: what is wanted is stored before Segment is
asked, Segment is looked at before it is changed, and every change is looked at afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
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
    SegmentError,
    SegmentUnavailable,
)

logger = logging.getLogger(__name__)

ROTATE_KEY = "rotate_key"

_OLD_AND_NEW = 2
"""How many usable keys an install has while a rotation is not finished."""


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
            SegmentError: it did not come about; try again later.
            KeyError: no such install.
        """
        try:
            plan = await self._records.plan(install_id)
            if plan is None:
                return
            calls = InstallCalls(self._config_api, self._tokens, install_id)
            run = ProvisioningRun(plan, calls, self._records, self._api_keys)
            await run.run(overwrite=overwrite or self._overwrite_always)
        except AccessLost as lost:  # the tokens have marked it; a later look takes it up again
            logger.warning("provisioning of %s ended: %s", install_id, lost.reason.value)
        except ProvisioningEnded as ended:
            await self._records.ended(install_id, ended.reason, detail=ended.detail)
            if not ended.is_final:
                raise
        except InsufficientScope as refused:
            await self._records.ended(install_id, Reason.SCOPE_TOO_SMALL, detail=refused.text)
            raise
        except ConfigApiError as refused:
            detail = refused.text or f"HTTP {refused.status}"
            await self._records.ended(install_id, Reason.REQUEST_REFUSED, detail=detail)
            raise
        except (SegmentUnavailable, PartnerFunctionFailed) as error:
            await self._records.waiting(install_id, _in_the_way(error))
            raise

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

    async def rotate_key(self, install_id: str, *, actor: str) -> None:
        """Mint a new key and queue pushing it to Segment (wake the outbox afterwards).

        The replaced keys go on working. Their ``OVERLAP`` begins when Segment is seen to hold the new one, whichever
        run sees that. A rotation that is not finished goes on with the key that it minted.

        Raises:
            KeyError: no such install.
            ActRefused: it is not connected.
            PartnerFunctionFailed: as ``ApiKeys.mint``.
        """
        async with self._database.transaction() as session:
            install = await lock_for(session, InstallAct.ROTATE_KEY, install_id)
            if len(await stored_keys.usable_of_install(session, install_id)) < _OLD_AND_NEW:
                await self._api_keys.mint(
                    session, account=install.account, component=install.component, install_id=install_id, actor=actor
                )
            await outbox.add(session, ROTATE_KEY, install_id, now=self._clock())

    async def give_up(self, entry: OutboxEntry, error: Exception) -> None:
        """Write down that the outbox stopped trying an entry."""
        logger.error("gave up on %s of %s: %s", entry.kind, entry.install_id, type(error).__name__)
        if entry.kind == PROVISION:
            await self._records.given_up(entry.install_id, _in_the_way(error))
        elif entry.kind == DISCONNECT:
            await self._erase(entry.install_id, switched_off=False)

    async def _handle_provision(self, entry: OutboxEntry) -> None:
        await self.provision(entry.install_id, overwrite=bool(entry.payload.get("overwrite")))

    async def _handle_disconnect(self, entry: OutboxEntry) -> None:
        await self._switch_off(entry.install_id, delete=bool(entry.payload.get("delete")))

    async def _handle_rotation(self, entry: OutboxEntry) -> None:
        await self.provision(entry.install_id)

    async def _switch_off(self, install_id: str, *, delete: bool) -> None:
        """Switch the destination off, or delete it, unless the install was connected again meanwhile.

        Raises:
            SegmentError: it is not seen to be off; try again later.
        """
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
            await calls.switch_off(stored.name, delete=delete)
        except AccessLost as lost:
            if lost.reason is not Reason.REMOVAL_REPORTED:
                await self._records.disconnect_waiting(install_id)
                raise
            await self._erase(install_id, switched_off=False)
        except SegmentError:
            await self._records.disconnect_waiting(install_id)
            raise
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
