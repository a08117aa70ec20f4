"""Provisioning: the customer's destination in Segment made, and kept, as it should be.

Everything here may be cut off between any two steps and run again: what is wanted is stored before Segment is
asked, Segment is looked at before it is changed, and every change is looked at afterwards (contract 2.10, 3.3).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, Protocol

from sqlmodel.ext.asyncio.session import AsyncSession

from db.clock import Clock, utc_now
from db.control import api_keys as stored_keys
from db.control import audit, destinations, install_tokens, installs, outbox
from db.control.tables import Install, InstallStatus, OutboxEntry
from db.database import Database
from db.encryption import EncryptionKeys
from segment_api.config_api import ConfigApi
from segment_api.destination import DestinationRequest
from segment_api.errors import (
    AlreadyExists,
    ConfigApiError,
    InsufficientScope,
    InternalFailure,
    InvalidAnswer,
    NotFound,
    SegmentUnavailable,
    Unauthenticated,
)
from segment_api.names import destination_name
from subscriptions.api_keys import ApiKeys
from subscriptions.provisioning_access import AccessLost, AccessTokens
from subscriptions.provisioning_calls import InstallCalls
from subscriptions.provisioning_decision import (
    Progress,
    Seen,
    Step,
    held_key,
    missing_settings,
    next_step,
    settings_to_create,
)
from subscriptions.provisioning_reasons import EXPLANATIONS, WAITING, Reason, explain

logger = logging.getLogger(__name__)

PROVISION = "provision"
DISCONNECT = "disconnect"
ROTATE_KEY = "rotate_key"

OVERLAP = timedelta(hours=24)
"""How long a replaced key keeps working, counted from when Segment has its successor (contract case 59)."""


class Component(Protocol):
    """What provisioning has to know of a component."""

    @property
    def name(self) -> str:
        """Our name for it."""

    @property
    def destination_slug(self) -> str:
        """Its slug in Segment's catalog."""

    @property
    def default_settings(self) -> Mapping[str, object]:
        """Settings of a new destination, by key, under the customer's own choices."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an install's destination should be.

    Attributes:
        name: the destination's full name.
        api_key: the account's key.
        chosen: the customer's own settings; those that also change an existing destination.
        ours, verified: what earlier runs found (``provisioning_decision.next_step``).
    """

    account: str
    source: str
    name: str
    slug: str
    key_id: str
    api_key: str
    defaults: Mapping[str, object]
    chosen: Mapping[str, object]
    ours: bool
    verified: bool
    started_at: datetime

    def __repr__(self) -> str:
        return f"Plan(name={self.name!r}, key_id={self.key_id!r})"


class _Ended(Exception):
    """The run is over for a reason that the install's record will give."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.detail = detail


class Provisioner:
    """Provisions, disconnects, and rotates keys.

    Args:
        components: by our own names.
        overwrite_policy: ``always`` replaces another key in an existing destination without asking (case 50).
    """

    def __init__(  # noqa: PLR0917  # its six collaborators, in the order of the floors
        self,
        database: Database,
        encryption: EncryptionKeys,
        api_keys: ApiKeys,
        tokens: AccessTokens,
        config_api: ConfigApi,
        components: Mapping[str, Component],
        *,
        clock: Clock = utc_now,
        overwrite_policy: Literal["ask", "always"] = "ask",
    ) -> None:
        self._database = database
        self._encryption = encryption
        self._api_keys = api_keys
        self._tokens = tokens
        self._config_api = config_api
        self._components = components
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
            SegmentUnavailable, InvalidAnswer: not now; try again later.
            KeyError: no such install.
        """
        await self._provision(install_id, overwrite=overwrite)

    async def disconnect(self, install_id: str, *, delete: bool = False, actor: str) -> None:
        """Revoke the install's keys at once and queue switching its destination off (wake the outbox afterwards).

        Args:
            delete: delete the destination instead.
            actor: who asked, for the audit.

        Raises:
            KeyError: no such install.
        """
        now = self._clock()
        async with self._database.transaction() as session:
            if await installs.lock(session, install_id) is None:
                raise KeyError(install_id)
            await self._api_keys.revoke_of_install(session, install_id, actor=actor)
            await self._set_status(session, install_id, Reason.DISCONNECTED_BY_REQUEST)
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
            KeyError: no such install, or it was never provisioned.
        """
        now = self._clock()
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            wanted = await destinations.get(session, install_id)
            if install is None or wanted is None:
                raise KeyError(install_id)
            replaced = [
                key.id
                for key in await stored_keys.list_all(session, account=install.account)
                if key.install_id == install_id and key.revoked_at is None and key.expires_at is None
            ]
            minted = await self._api_keys.mint(
                session, account=install.account, component=install.component, install_id=install_id, actor=actor
            )
            await destinations.want(
                session, install_id, name=wanted.name, api_key_id=minted.id, desired=dict(wanted.desired)
            )
            await outbox.add(
                session,
                ROTATE_KEY,
                install_id,
                now=now,
                payload={"replaced": replaced, "overlap_seconds": overlap.total_seconds()},
            )

    async def give_up(self, entry: OutboxEntry, error: Exception) -> None:
        """Write down that the outbox stopped trying an entry."""
        logger.error("gave up on %s of %s: %s", entry.kind, entry.install_id, type(error).__name__)
        if entry.kind == PROVISION:
            await self._end(entry.install_id, Reason.SEGMENT_UNAVAILABLE)

    async def _handle_provision(self, entry: OutboxEntry) -> None:
        await self._provision(entry.install_id, overwrite=bool(entry.payload.get("overwrite")))

    async def _handle_disconnect(self, entry: OutboxEntry) -> None:
        await self._disconnect_at_segment(entry.install_id, delete=bool(entry.payload.get("delete")))

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
            plan = await self._plan(install_id)
            if plan is None:
                return False
            await self._bring_about(install_id, plan, overwrite=overwrite or self._overwrite_always)
        except _Ended as ended:
            await self._end(install_id, ended.reason, detail=ended.detail)
        except AccessLost:
            pass  # whoever raised it has marked the install
        except Unauthenticated:
            await self._end(install_id, Reason.TOKEN_REJECTED)
        except InsufficientScope as refused:
            await self._end(install_id, Reason.SCOPE_TOO_SMALL, detail=refused.text)
        except ConfigApiError as refused:
            await self._end(install_id, Reason.REQUEST_REFUSED, detail=refused.text or f"HTTP {refused.status}")
        except (SegmentUnavailable, InvalidAnswer):
            await self._note_waiting(install_id)
            raise
        else:
            return True
        return False

    async def _plan(self, install_id: str) -> Plan | None:
        """Store what is wanted, minting the key in the same transaction, and return it with the clear key."""
        now = self._clock()
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            if install is None:
                raise KeyError(install_id)
            if install.status is InstallStatus.DISCONNECTED:
                return None
            component = self._components.get(install.component)
            if component is None:
                raise _Ended(Reason.COMPONENT_UNKNOWN)
            if install.source_name is None:
                raise _Ended(Reason.SCOPE_WITHOUT_SOURCE)
            name = destination_name(install.source_name, component.destination_slug)
            key_id = await self._ensure_key(session, install)
            wanted = await destinations.get(session, install_id)
            desired = {
                "enabled": True,
                "settings": dict(install.settings),
                "ours": bool(wanted and wanted.name == name and wanted.desired.get("ours")),
            }
            if wanted is None or (wanted.name, wanted.api_key_id, wanted.desired) != (name, key_id, desired):
                wanted = await destinations.want(session, install_id, name=name, api_key_id=key_id, desired=desired)
            clear = await self._api_keys.reveal(session, key_id, purpose="provisioning")
            return Plan(
                account=install.account,
                source=install.source_name,
                name=name,
                slug=component.destination_slug,
                key_id=key_id,
                api_key=clear,
                defaults=component.default_settings,
                chosen=dict(install.settings),
                ours=desired["ours"] is True,
                verified=wanted.verified_at is not None,
                started_at=now,
            )

    async def _ensure_key(self, session: AsyncSession, install: Install) -> str:
        current = await stored_keys.current_of_install(session, install.id)
        if current is not None:
            return current.id
        minted = await self._api_keys.mint(
            session, account=install.account, component=install.component, install_id=install.id
        )
        return minted.id

    async def _bring_about(self, install_id: str, plan: Plan, *, overwrite: bool) -> None:
        """Look, decide, act, look again, until the destination is as planned; raises ``_Ended`` otherwise."""
        calls = InstallCalls(self._config_api, self._tokens, install_id)
        progress, known = Progress(), True
        try:
            seen = await self._look(calls, plan)
        except InternalFailure:
            seen, known = None, False  # may mean "absent" (contract 3.7); a create will tell
        while True:
            step = next_step(seen, progress, ours=plan.ours, verified=plan.verified, overwrite=overwrite)
            if step in {Step.CREATE, Step.UPDATE} and known and not plan.ours:
                plan = await self._note_ours(install_id, plan)
            match step:
                case Step.CREATE:
                    written = await self._create(calls, plan)
                    progress = Progress(progress.creates + 1, progress.updates, written)
                case Step.UPDATE:
                    written = await self._update(calls, plan)
                    progress = Progress(progress.creates, progress.updates + 1, written)
                case Step.CONNECTED if seen is not None:
                    return await self._connected(install_id, plan, seen, changed=progress != Progress())
                case Step.ASK:
                    raise _Ended(Reason.KEY_DIFFERS)
                case Step.CREATE_FAILED:
                    raise _Ended(Reason.DESTINATION_CREATE_FAILED)
                case _:
                    raise _Ended(Reason.DESTINATION_UPDATE_FAILED)
            seen, known = await self._look(calls, plan), True

    async def _look(self, calls: InstallCalls, plan: Plan) -> Seen | None:
        destination = await calls.get(plan.name)
        if destination is None:
            return None
        shown = destination.api_key
        is_ours = False
        if shown is not None and shown != plan.api_key:
            holder = (await self._api_keys.look_up(shown)).holder
            is_ours = holder is not None and holder.account == plan.account
        return Seen(destination.enabled, held_key(destination, plan.api_key, is_ours=is_ours))

    async def _create(self, calls: InstallCalls, plan: Plan) -> bool:
        """Create the destination; tells whether Segment confirmed it."""
        wanted = {**plan.defaults, **plan.chosen}
        catalog = await calls.catalog(plan.slug) if wanted else None
        settings = settings_to_create(plan.defaults, plan.chosen, catalog)
        if len(settings) < len(wanted):
            logger.warning("the catalog knows no settings %s of %s", sorted(wanted.keys() - settings), plan.slug)
        missing = missing_settings(settings, catalog)
        if missing:
            raise _Ended(Reason.SETTINGS_MISSING, ", ".join(missing))
        try:
            await calls.create(DestinationRequest(plan.name, enabled=True, api_key=plan.api_key, settings=settings))
        except (AlreadyExists, InternalFailure) as ambiguous:
            logger.info("creating %s: %s; looking what is there", plan.name, ambiguous)
            return False
        except NotFound:
            raise _Ended(Reason.SOURCE_GONE) from None
        return True

    async def _update(self, calls: InstallCalls, plan: Plan) -> bool:
        """Update the destination; tells whether Segment confirmed it. ``False`` when it is gone meanwhile."""
        try:
            await calls.update(DestinationRequest(plan.name, enabled=True, api_key=plan.api_key, settings=plan.chosen))
        except NotFound:
            return False
        return True

    async def _note_ours(self, install_id: str, plan: Plan) -> Plan:
        """Remember, before the first write, that writing is right: what stands there after a crash is then ours."""
        desired = {"enabled": True, "settings": dict(plan.chosen), "ours": True}
        async with self._database.transaction() as session:
            await destinations.want(session, install_id, name=plan.name, api_key_id=plan.key_id, desired=desired)
        return replace(plan, ours=True, verified=False)

    async def _connected(self, install_id: str, plan: Plan, seen: Seen, *, changed: bool) -> None:
        now = self._clock()
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            wanted = await destinations.get(session, install_id)
            if install is None or wanted is None or wanted.api_key_id != plan.key_id:
                return  # the key was rotated meanwhile; that run goes on
            if install.status is InstallStatus.DISCONNECTED:
                # Disconnected while we were switching it on: switch it off once more.
                await outbox.add(session, DISCONNECT, install_id, now=now, payload={"delete": False})
                return
            await destinations.want(
                session,
                install_id,
                name=plan.name,
                api_key_id=plan.key_id,
                desired={"enabled": True, "settings": dict(plan.chosen), "ours": True},
            )
            await destinations.saw(
                session,
                install_id,
                seen={"enabled": seen.enabled, "key": seen.key.value},
                now=now,
                verified=True,
            )
            arrived = install.last_event_at is not None and install.last_event_at >= plan.started_at
            if install.status is not InstallStatus.RECEIVING:
                status = InstallStatus.RECEIVING if arrived else InstallStatus.CONNECTED
                await installs.set_status(session, install_id, status, now=now)
            if changed:
                await audit.add(session, actor="service", action="destination.write", subject=install_id, now=now)

    async def _disconnect_at_segment(self, install_id: str, *, delete: bool) -> None:
        """Switch the destination off, or delete it, unless the install was connected again meanwhile."""
        async with self._database.transaction() as session:
            install = await installs.get(session, install_id)
            wanted = await destinations.get(session, install_id)
        if install is None or wanted is None or install.status is not InstallStatus.DISCONNECTED:
            return
        calls = InstallCalls(self._config_api, self._tokens, install_id)
        try:
            if delete:
                await calls.delete(wanted.name)
            else:
                await calls.update(DestinationRequest(wanted.name, enabled=False))
        except (AccessLost, ConfigApiError) as refused:
            # The keys are revoked, so no event gets in; that is as far as we can go.
            logger.warning("the destination of %s could not be switched off: %s", install_id, refused)
        async with self._database.transaction() as session:
            await install_tokens.forget(session, install_id)
            await audit.add(
                session, actor="service", action="destination.switch_off", subject=install_id, now=self._clock()
            )

    async def _end(self, install_id: str, reason: Reason, *, detail: str = "") -> None:
        """Write down why a run ended without a connection."""
        level = logging.ERROR if EXPLANATIONS[reason].alarm else logging.WARNING
        logger.log(level, "provisioning of %s ended: %s%s", install_id, reason.value, f" ({detail})" if detail else "")
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            if install is None or install.status is InstallStatus.DISCONNECTED:
                return
            await self._set_status(session, install_id, reason, source=install.source_name, detail=detail)

    async def _note_waiting(self, install_id: str) -> None:
        """Tell the customer who is watching that it takes longer; a connected install stays as it is."""
        async with self._database.transaction() as session:
            install = await installs.lock(session, install_id)
            if install is not None and install.status is InstallStatus.PROVISIONING:
                await installs.set_status(
                    session,
                    install_id,
                    InstallStatus.PROVISIONING,
                    now=self._clock(),
                    reason=Reason.SEGMENT_UNAVAILABLE.value,
                    detail=WAITING,
                )

    async def _set_status(
        self, session: AsyncSession, install_id: str, reason: Reason, *, source: str | None = None, detail: str = ""
    ) -> None:
        status, sentence = explain(reason, source=source, detail=detail)
        await installs.set_status(session, install_id, status, now=self._clock(), reason=reason.value, detail=sentence)
