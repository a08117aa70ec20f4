"""Flow states: one authorization flow each, bound to one browser, consumed once by one atomic statement."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import delete, func, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import FlowState


def digest(value: str) -> str:
    """The stored form of a state, a cookie or a code (each has at least 128 random bits)."""
    return hashlib.sha256(value.encode()).hexdigest()


async def add(session: AsyncSession, flow: FlowState) -> None:
    """Store a new flow."""
    session.add(flow)


async def find(session: AsyncSession, state: str, *, component: str | None = None) -> FlowState | None:
    """Return the flow of a ``state``, whatever became of it; only of one component, if it is named."""
    found = await session.get(FlowState, digest(state))
    return found if found is not None and component in {None, found.component} else None


async def consume(
    session: AsyncSession, state: str, cookie: str, *, component: str, code: str | None, now: datetime
) -> FlowState | None:
    """Consume the flow; ``None`` unless it exists, is unexpired, unused, and of this component and browser's cookie.

    Of any number of simultaneous calls exactly one gets the flow (RFC 6749 section 10.12, contract 2.10).
    """
    statement = (
        update(FlowState)
        .where(
            col(FlowState.state_hash) == digest(state),
            col(FlowState.cookie_hash) == digest(cookie),
            col(FlowState.component) == component,
            col(FlowState.consumed_at).is_(None),
            col(FlowState.expires_at) > now,
        )
        .values(consumed_at=now, code_hash=None if code is None else digest(code))
        .returning(FlowState)
    )
    return (await session.exec(statement)).scalar_one_or_none()


async def finish(
    session: AsyncSession, state: str, *, now: datetime, install_id: str | None = None, failure: str | None = None
) -> None:
    """Record how the flow ended, for a reload of the callback."""
    await session.exec(
        update(FlowState)
        .where(col(FlowState.state_hash) == digest(state))
        .values(finished_at=now, install_id=install_id, failure=failure, code_verifier_ciphertext=None)
    )


async def count_open(session: AsyncSession, *, now: datetime) -> int:
    """Count the flows that could still be completed; starts are refused when there are too many."""
    statement = (
        select(func.count())
        .select_from(FlowState)
        .where(col(FlowState.consumed_at).is_(None), col(FlowState.expires_at) > now)
    )
    return (await session.exec(statement)).one()


async def purge(session: AsyncSession, *, before: datetime) -> None:
    """Delete flows that expired before the given instant."""
    await session.exec(delete(FlowState).where(col(FlowState.expires_at) < before))


async def exchange_failure(
    session: AsyncSession, state: str, cookie: str, *, failure: str, becomes: str
) -> FlowState | None:
    """Turn a flow's recorded failure into another, once, for the browser it belongs to; ``None`` otherwise."""
    statement = (
        update(FlowState)
        .where(
            col(FlowState.state_hash) == digest(state),
            col(FlowState.cookie_hash) == digest(cookie),
            col(FlowState.failure) == failure,
        )
        .values(failure=becomes)
        .returning(FlowState)
    )
    return (await session.exec(statement)).scalar_one_or_none()


async def newest_of_install(session: AsyncSession, install_id: str) -> FlowState | None:
    """Return the flow that connected an install last."""
    statement = (
        select(FlowState).where(FlowState.install_id == install_id).order_by(col(FlowState.created_at).desc()).limit(1)
    )
    return (await session.exec(statement)).first()
