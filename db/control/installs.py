"""Installs: saved by the callback, moved along by provisioning and by the first event."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, literal, tuple_, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import Install, InstallStatus
from enable_with_segment.db.types import UtcDateTime

_WATCHED = (InstallStatus.CONNECTED, InstallStatus.RECEIVING, InstallStatus.NEEDS_RECONNECT, InstallStatus.FAILED)


async def get(session: AsyncSession, install_id: str) -> Install | None:
    """Return one install by our own id."""
    return await session.get(Install, install_id)


async def lock(session: AsyncSession, install_id: str) -> Install | None:
    """Return one install and keep other transactions from locking or changing it until this one ends."""
    statement = select(Install).where(Install.id == install_id).with_for_update()
    # Whoever had the lock before may have changed what this session has read already.
    return (await session.exec(statement.execution_options(populate_existing=True))).first()


async def lock_of_account(session: AsyncSession, *, account: str, component: str) -> list[Install]:
    """Return an account's installs of a component, the newest first, locked as by :func:`lock`."""
    statement = (
        select(Install)
        .where(Install.account == account, Install.component == component)
        .order_by(col(Install.created_at).desc(), col(Install.id).desc())
        .with_for_update()
    )
    return list((await session.exec(statement.execution_options(populate_existing=True))).all())


async def find_by_name(session: AsyncSession, install_name: str) -> Install | None:
    """Return the install that Segment calls ``installs/{n}``."""
    return (await session.exec(select(Install).where(Install.install_name == install_name))).first()


async def find_in_source(
    session: AsyncSession, *, account: str, component: str, workspace_name: str, source_name: str | None
) -> Install | None:
    """Return the account's install on exactly this workspace and source, if there is one."""
    statement = select(Install).where(
        Install.account == account,
        Install.component == component,
        Install.workspace_name == workspace_name,
        Install.source_name == source_name,
    )
    return (await session.exec(statement)).first()


async def list_all(session: AsyncSession, *, account: str | None = None) -> list[Install]:
    """Return installs, the newest first."""
    statement = select(Install).order_by(col(Install.created_at).desc())
    if account is not None:
        statement = statement.where(Install.account == account)
    return list((await session.exec(statement)).all())


async def set_status(
    session: AsyncSession,
    install_id: str,
    status: InstallStatus,
    *,
    now: datetime,
    reason: str | None = None,
    detail: str | None = None,
) -> None:
    """Move an install to a status, with a typed reason and a sentence for people when there is one."""
    values: dict[str, object] = {
        "status": status,
        "status_reason": reason,
        "status_detail": detail,
        "updated_at": now,
    }
    if status is InstallStatus.DISCONNECTED:
        values["disconnected_at"] = now
    await session.exec(update(Install).where(col(Install.id) == install_id).values(**values))


async def set_connection_state(session: AsyncSession, install_id: str, state: str, *, reason: str | None) -> None:
    """Store how the connection stands, with a typed reason when it does not work."""
    values = {"connection_state": state, "connection_reason": reason}
    await session.exec(update(Install).where(col(Install.id) == install_id).values(**values))


async def mark_receiving(session: AsyncSession, install_id: str, *, now: datetime) -> None:
    """Note that an event arrived; a connected install becomes *receiving*."""
    await session.exec(update(Install).where(col(Install.id) == install_id).values(last_event_at=now))
    await session.exec(
        update(Install)
        .where(col(Install.id) == install_id, col(Install.status) == InstallStatus.CONNECTED)
        .values(status=InstallStatus.RECEIVING, status_reason=None, status_detail=None, updated_at=now)
    )


async def page(session: AsyncSession, *, account: str | None, before: Install | None, limit: int) -> list[Install]:
    """Return up to ``limit`` installs, the newest first, beginning after ``before``."""
    statement = select(Install).order_by(col(Install.created_at).desc(), col(Install.id).desc()).limit(limit)
    if account is not None:
        statement = statement.where(Install.account == account)
    if before is not None:
        older = tuple_(col(Install.created_at), col(Install.id)) < tuple_(
            literal(before.created_at, UtcDateTime()), literal(before.id)
        )
        statement = statement.where(older)
    return list((await session.exec(statement)).all())


def is_watched(install: Install) -> bool:
    """Return True if an install is looked at from time to time: it works, or it may work again by itself."""
    return install.status in _WATCHED


async def watched(session: AsyncSession) -> list[str]:
    """Return the ids of the installs that are looked at from time to time."""
    return list((await session.exec(select(Install.id).where(_is_watched()))).all())


async def without_check(session: AsyncSession, *, limit: int) -> list[str]:
    """Return the ids of watched installs that no look was planned for yet."""
    statement = select(Install.id).where(_is_watched(), col(Install.check_due_at).is_(None)).limit(limit)
    return list((await session.exec(statement)).all())


async def set_check(session: AsyncSession, install_id: str, *, due: datetime) -> None:
    """Plan the next look at an install, unless another process has."""
    await session.exec(
        update(Install)
        .where(col(Install.id) == install_id, col(Install.check_due_at).is_(None))
        .values(check_due_at=due)
    )


async def claim_checks(session: AsyncSession, *, now: datetime, next_due: datetime, limit: int) -> list[str]:
    """Return the ids of watched installs whose look is due, and plan the next one; others don't get the same."""
    due = (
        select(Install.id)
        .where(_is_watched(), col(Install.check_due_at) <= now)
        .order_by(col(Install.check_due_at))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(Install)
        .where(col(Install.id).in_(due))
        .values(check_due_at=next_due)
        .returning(col(Install.id))
        .execution_options(synchronize_session=False)
    )
    return list((await session.exec(statement)).scalars().all())


def _is_watched() -> ColumnElement[bool]:
    return col(Install.status).in_(_WATCHED)
