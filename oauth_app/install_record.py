"""Saving an install: its record, encrypted token and outbox entry, in one transaction (contract 2.9, case 25)."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from sqlmodel.ext.asyncio.session import AsyncSession

from db.control import audit, install_tokens, installs, outbox
from db.control.tables import FlowState, Install, InstallStatus
from db.encryption import EncryptionKeys
from db.identifiers import new_id
from segment_api.grants import InstallGrant

logger = logging.getLogger(__name__)

PROVISION = "provision"

_NO_SOURCE = (
    "scope_without_source",
    "Segment connected the whole workspace instead of one source, so no destination can be set up. "
    "Please contact support: the scope of the Segment App has to be changed.",
)


class ReconnectedElsewhere(Exception):
    """A reconnect of one install came back with another workspace or source; nothing was changed (OA-20)."""


class InstallOfAnotherAccount(Exception):
    """Segment named an install that another account of the partner holds; nothing was changed."""


async def save_install(
    session: AsyncSession, encryption: EncryptionKeys, grant: InstallGrant, *, flow: FlowState, now: datetime
) -> Install:
    """Save a granted install for the flow's account and queue its provisioning.

    An install that was connected before (by its name, or on the same workspace and source) is taken up again, so
    that its history and its API key stay. Without a source nothing can be provisioned (case 26): the install is
    kept, marked as failed. A flow that reconnects an install changes that one or nothing.

    Raises:
        InstallOfAnotherAccount: the install's name is stored for another account.
        ReconnectedElsewhere: another workspace or source was chosen than that of the install to reconnect.
    """
    source = grant.source_names[0] if grant.source_names else None
    if len(grant.source_names) > 1:
        logger.warning("Segment named %d sources; the first one is used", len(grant.source_names))
    install = await _stored_install(session, grant, source, flow=flow)
    if install is None:
        install = Install(
            id=new_id("ins"),
            account=flow.account,
            component=flow.component,
            install_name=grant.install_name,
            workspace_name=grant.workspace_name,
            scope=grant.scope,
            status=InstallStatus.PROVISIONING,
            created_at=now,
            updated_at=now,
        )
    install.install_name = grant.install_name
    install.app_name = grant.app_name
    install.workspace_name = grant.workspace_name
    install.source_name = source
    install.scope = grant.scope
    if flow.settings or flow.reconnects is None:
        install.settings = dict(flow.settings)
    install.status = InstallStatus.PROVISIONING if source else InstallStatus.FAILED
    install.status_reason, install.status_detail = (None, None) if source else _NO_SOURCE
    install.updated_at = now
    install.disconnected_at = None
    session.add(install)
    await session.flush()
    await install_tokens.save(
        session,
        encryption,
        install.id,
        grant.access_token,
        expires_at=now + timedelta(seconds=grant.expires_in),
        now=now,
    )
    await audit.add(session, actor=f"account:{flow.account}", action="install.save", subject=install.id, now=now)
    if source:
        await queue_provisioning(session, install.id, now=now)
    return install


async def _stored_install(
    session: AsyncSession, grant: InstallGrant, source: str | None, *, flow: FlowState
) -> Install | None:
    by_name = await installs.find_by_name(session, grant.install_name)
    if by_name is not None and (by_name.account, by_name.component) != (flow.account, flow.component):
        raise InstallOfAnotherAccount
    if flow.reconnects is not None:
        wanted = await installs.lock(session, flow.reconnects)
        if wanted is None or (by_name is not None and by_name.id != wanted.id):
            raise ReconnectedElsewhere
        if (wanted.workspace_name, wanted.source_name) != (grant.workspace_name, source):
            raise ReconnectedElsewhere
        return wanted
    return by_name or await installs.find_in_source(
        session,
        account=flow.account,
        component=flow.component,
        workspace_name=grant.workspace_name,
        source_name=source,
    )


async def queue_provisioning(session: AsyncSession, install_id: str, *, now: datetime, overwrite: bool = False) -> None:
    """Queue the destination step of an install, to run after the caller's commit."""
    await outbox.add(session, PROVISION, install_id, now=now, payload={"overwrite": overwrite})
