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
from subscriptions.provisioning_reasons import Reason, explain

logger = logging.getLogger(__name__)

PROVISION = "provision"

_WHOLE_WORKSPACE = "workspace"


class ReconnectedElsewhere(Exception):
    """A reconnect of one install came back with another workspace or source; nothing was changed (OA-20)."""


class InstallOfAnotherAccount(Exception):
    """Segment named an install that another account of the partner holds; nothing was changed."""


async def save_install(
    session: AsyncSession,
    encryption: EncryptionKeys,
    grant: InstallGrant,
    *,
    flow: FlowState,
    scope: str,
    now: datetime,
) -> Install:
    """Save a granted install for the flow's account and queue its provisioning.

    An install that was connected before (by its name, or on the same workspace and source) is taken up again, so
    that its history and its API key stay. A grant that nothing can be provisioned with is kept, marked as failed. A
    flow that reconnects an install changes that one or nothing.

    Args:
        scope: as it was asked for.

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
    problem = problem_of(grant, scope=scope)
    install.status, install.status_reason, install.status_detail = InstallStatus.PROVISIONING, None, None
    if problem is not None:
        install.status, install.status_detail = explain(problem)
        install.status_reason = problem.value
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
    if problem is None:
        await queue_provisioning(session, install.id, now=now)
    return install


def problem_of(grant: InstallGrant, *, scope: str) -> Reason | None:
    """Tell why nothing can be provisioned with a grant, if so (OA-19, case 26).

    Segment's own example shows the scope of a whole workspace beside a list of sources (contract 2.5), so that one
    passes for ours; another destination's, or one that only reads, does not.
    """
    if not grant.source_names:
        return Reason.SCOPE_WITHOUT_SOURCE
    return None if grant.scope in {scope, _WHOLE_WORKSPACE} else Reason.SCOPE_TOO_SMALL


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
