"""Saving an install: its record, encrypted token and outbox entry, in one transaction (contract 2.9, case 25)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control import audit, install_tokens, installs, outbox
from enable_with_segment.db.control.tables import FlowState, Install, InstallStatus
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.identifiers import new_id
from enable_with_segment.installs.reasons import Reason, explain
from enable_with_segment.segment_api.grants import InstallGrant

logger = logging.getLogger(__name__)

PROVISION = "provision"

_WHOLE_WORKSPACE = "workspace"


class ReconnectedElsewhere(Exception):
    """A reconnect of one install came back with another workspace or source; nothing was changed (OA-20)."""


class NothingToContinue(Exception):
    """Segment says that the App is installed already, and no install of the account can be the one it means."""


@dataclass(frozen=True, slots=True)
class InstallChoice:
    """An install that Segment may mean, as the customer sees it."""

    id: str
    workspace_name: str
    source_name: str | None
    status: InstallStatus

    @classmethod
    def of(cls, install: Install) -> InstallChoice:
        """Take what is shown of an install."""
        return cls(install.id, install.workspace_name, install.source_name, install.status)


class ContinuationUnclear(Exception):
    """Segment does not say which install it means; only the customer knows.

    Attributes:
        choices: the account's installs that it may be.
    """

    def __init__(self, choices: Sequence[InstallChoice]) -> None:
        super().__init__(f"one of {len(choices)} installs")
        self.choices = tuple(choices)


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
    found = by_name or await installs.find_in_source(
        session,
        account=flow.account,
        component=flow.component,
        workspace_name=grant.workspace_name,
        source_name=source,
    )
    return None if found is None else await installs.lock(session, found.id)


async def continue_install(
    session: AsyncSession, *, flow: FlowState, lost: bool, chosen: str | None = None, now: datetime
) -> Install:
    """Take up the stored install when Segment says that there is one already (contract 2.8, cases 15 and 16).

    Segment names neither workspace nor install. So it is the one that the customer chose or the flow reconnects, or
    the account's only one. Settings that the flow brings replace the install's, so that the newest link holds; without
    any, the install keeps its own.

    Args:
        lost: Segment may have made an install for this account whose token never reached us; it may mean that one.
        chosen: the customer said which one.

    Raises:
        NothingToContinue: there is none.
        ContinuationUnclear: it may be one of several.
    """
    stored = await installs.lock_of_account(session, account=flow.account, component=flow.component)
    wanted = flow.reconnects if chosen is None else chosen
    found = [install for install in may_be_meant(stored) if wanted in {None, install.id}]
    if not found:
        raise NothingToContinue
    if chosen is None and (lost or len(found) > 1):
        raise ContinuationUnclear([InstallChoice.of(install) for install in found])
    install = found[0]
    if flow.settings:
        install.settings = dict(flow.settings)
    install.status, install.status_reason, install.status_detail = InstallStatus.PROVISIONING, None, None
    install.updated_at = now
    install.disconnected_at = None
    session.add(install)
    await session.flush()
    # Provisioning refreshes the token before its first call: it is old, or was erased, or refused for a while.
    await install_tokens.outdate(session, install.id, now=now)
    await install_tokens.clear_refusal(session, install.id)
    await audit.add(session, actor=f"account:{flow.account}", action="install.resume", subject=install.id, now=now)
    await queue_provisioning(session, install.id, now=now)
    return install


def may_be_meant(stored: Sequence[Install]) -> list[Install]:
    """Return the installs that Segment may mean when it says that there is one.

    One that was disconnected here stays installed in Segment, unless it was removed there.
    """
    return [install for install in stored if install.status_reason != Reason.INSTALL_REMOVED.value]


async def queue_provisioning(session: AsyncSession, install_id: str, *, now: datetime, overwrite: bool = False) -> None:
    """Queue the destination step of an install, to run after the caller's commit."""
    await outbox.add(session, PROVISION, install_id, now=now, payload={"overwrite": overwrite})
