"""What can be done to an install, and in which of its states: one table for dashboard, commands and status page."""

from __future__ import annotations

from enum import StrEnum

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control import installs
from enable_with_segment.db.control.tables import Install, InstallStatus
from enable_with_segment.installs.connection_state import ConnectionState
from enable_with_segment.installs.reasons import Reason


class InstallAct(StrEnum):
    """An act. Connecting it anew is none of these: that begins with a connect link, and fits every state."""

    RECONCILE = "reconcile"
    """Compare the destination with what it should be, and mend it."""
    ROTATE_KEY = "rotate_key"
    REFRESH = "refresh"
    """Get a new install token."""
    DISCONNECT = "disconnect"
    RETRY = "retry"
    """The customer's button after a failure, or after a change in Segment."""
    KEEP = "keep"
    """Undo a disconnect that is under way, or a removal that Segment reported."""
    CONFIRM = "overwrite"
    """The customer's word that another key in the destination may be replaced."""


class ActRefused(Exception):
    """The act does not fit the install's state; the text says why, and what to do instead."""


_WORKS = frozenset({InstallStatus.CONNECTED, InstallStatus.RECEIVING})
_GOES_ON = frozenset(status for status in InstallStatus if not status.over)
_FITS: dict[InstallAct, frozenset[InstallStatus]] = {
    InstallAct.RECONCILE: _GOES_ON,
    InstallAct.ROTATE_KEY: _WORKS,
    InstallAct.REFRESH: _GOES_ON,
    InstallAct.DISCONNECT: _GOES_ON,
    InstallAct.KEEP: frozenset({InstallStatus.DISCONNECTING, InstallStatus.NEEDS_RECONNECT}),
    InstallAct.RETRY: _WORKS | {InstallStatus.FAILED},
    InstallAct.CONFIRM: frozenset({InstallStatus.AWAITING_CONFIRMATION}),
}
_SETS_UP = frozenset({InstallAct.RECONCILE, InstallAct.RETRY})


def why_not(act: InstallAct, install: Install) -> str | None:
    """Return why an act does not fit an install now, as a sentence; ``None`` if it does."""
    if act is InstallAct.DISCONNECT and is_left_on(install):
        return None
    if install.status not in _FITS[act]:
        return _SENTENCES[install.status]
    if act is InstallAct.KEEP and install.status is InstallStatus.NEEDS_RECONNECT and not is_removal_reported(install):
        return _SENTENCES[install.status]
    if act in _SETS_UP and install.source_name is None:
        return "Segment named no source, so there is nothing to set up. The customer has to connect it again."
    drifted = install.connection_state == ConnectionState.DRIFTED
    if act is InstallAct.RETRY and install.status in _WORKS and not drifted:
        return _SENTENCES[install.status]
    return None


def is_removal_reported(install: Install) -> bool:
    """Return True while Segment says that an install was removed and its access is not erased yet."""
    return install.status is InstallStatus.NEEDS_RECONNECT and install.status_reason == Reason.REMOVAL_REPORTED.value


def is_left_on(install: Install) -> bool:
    """Return True for a disconnected install whose destination Segment did not let us switch off: that can go on."""
    return install.status is InstallStatus.DISCONNECTED and install.status_reason == Reason.DESTINATION_LEFT_ON.value


async def lock_for(session: AsyncSession, act: InstallAct, install_id: str) -> Install:
    """Return a locked install that an act fits.

    Raises:
        KeyError: no such install.
        ActRefused: the act does not fit its state.
    """
    install = await installs.lock(session, install_id)
    if install is None:
        raise KeyError(install_id)
    problem = why_not(act, install)
    if problem is not None:
        raise ActRefused(problem)
    return install


_SENTENCES: dict[InstallStatus, str] = {
    InstallStatus.PROVISIONING: "It is being set up. Wait until that is done.",
    InstallStatus.AWAITING_CONFIRMATION: "The customer has to confirm first that the destination's key is replaced.",
    InstallStatus.CONNECTED: "It is connected already.",
    InstallStatus.RECEIVING: "It is connected already.",
    InstallStatus.FAILED: "It is not set up. Reconcile it first.",
    InstallStatus.NEEDS_RECONNECT: "Segment gives no access to it. The customer has to connect it again.",
    InstallStatus.DISCONNECTING: "It is being disconnected.",
    InstallStatus.DISCONNECTED: "It is disconnected. The customer has to connect it again.",
}
