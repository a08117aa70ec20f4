"""How an install's connection stands for the partner, and which changes of it the partner is told about.

An install's ``status`` is what a customer sees; its connection state is coarser and outlives a status: an install
that worked, failed and works again has *recovered*.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.components.install_function import StateChange
from enable_with_segment.db.control import installs, outbox
from enable_with_segment.db.control.tables import Install, InstallStatus

ANNOUNCE = "announce"
"""The kind of the outbox entry that calls the partner's functions."""


class ConnectionState(StrEnum):
    """What is stored as an install's ``connection_state``; nothing is stored before the first of them."""

    CONNECTED = "connected"
    FAILING = "failing"
    DRIFTED = "drifted"
    REVOKED = "revoked"


def state_of(status: InstallStatus) -> ConnectionState | None:
    """Return the connection state that a status means; ``None`` where the earlier one stands."""
    match status:
        case InstallStatus.CONNECTED | InstallStatus.RECEIVING:
            return ConnectionState.CONNECTED
        case InstallStatus.FAILED | InstallStatus.NEEDS_RECONNECT:
            return ConnectionState.FAILING
        case InstallStatus.DISCONNECTED:
            return ConnectionState.REVOKED
        case InstallStatus.PROVISIONING | InstallStatus.AWAITING_CONFIRMATION | InstallStatus.DISCONNECTING:
            return None


def change_between(earlier: str | None, state: ConnectionState) -> StateChange | None:
    """Return what the partner is told when a state follows another; ``None`` when it is the same."""
    if earlier == state:
        return None
    if state is ConnectionState.CONNECTED and earlier in {ConnectionState.FAILING, ConnectionState.DRIFTED}:
        return StateChange.RECOVERED
    return StateChange(state.value)


async def set_status(
    session: AsyncSession,
    install: Install,
    status: InstallStatus,
    *,
    now: datetime,
    reason: str | None = None,
    detail: str | None = None,
) -> None:
    """Move a locked install to a status, and note the connection state that goes with it."""
    await installs.set_status(session, install.id, status, now=now, reason=reason, detail=detail)
    state = state_of(status)
    if state is not None:
        await note(session, install, state, now=now, reason=reason, detail=detail)


async def note(
    session: AsyncSession,
    install: Install,
    state: ConnectionState,
    *,
    now: datetime,
    reason: str | None = None,
    detail: str | None = None,
) -> None:
    """Note a locked install's connection state; a change is announced once, by an entry in the outbox."""
    change = change_between(install.connection_state, state)
    await installs.set_connection_state(session, install.id, state.value, reason=reason)
    if change is not None:
        payload = {"change": change.value, "reason": reason, "detail": detail}
        await outbox.add(session, ANNOUNCE, install.id, now=now, payload=payload)
