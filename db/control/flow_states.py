"""Flow states: one authorization flow each, bound to one browser, consumed once by one atomic statement."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, func, not_, or_, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import FlowState

EXCHANGE_LOST = "exchange_lost"
ANSWER_UNREADABLE = "answer_unreadable"
RECONNECTED_ELSEWHERE = "reconnected_elsewhere"
_WITHOUT_TOKEN = (EXCHANGE_LOST, ANSWER_UNREADABLE, RECONNECTED_ELSEWHERE)
"""Failures after which Segment may have an install that we hold no token of."""


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


def belongs_to(flow: FlowState, cookie: str | None) -> bool:
    """Return True if this is the cookie of the browser that the flow was started in."""
    return cookie is not None and hmac.compare_digest(digest(cookie), flow.cookie_hash)


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
    session: AsyncSession, state_hash: str, *, now: datetime, install_id: str | None = None, failure: str | None = None
) -> None:
    """Record how the flow ended, for a reload of the callback."""
    await session.exec(
        update(FlowState)
        .where(col(FlowState.state_hash) == state_hash)
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


async def purge(session: AsyncSession, *, before: datetime, lost_before: datetime) -> None:
    """Delete flows that expired before the given instant; those that may have left an install are kept for longer."""
    expires_at = col(FlowState.expires_at)
    await session.exec(
        delete(FlowState).where(or_(expires_at < lost_before, and_(expires_at < before, not_(_without_token()))))
    )


async def has_install_without_token(
    session: AsyncSession, *, account: str, component: str, besides: str | None = None
) -> bool:
    """Return True if Segment may have an install of the account that we hold no token of.

    Args:
        besides: the hash of a state that is not looked at.
    """
    statement = (
        select(FlowState.state_hash)
        .where(
            FlowState.account == account,
            FlowState.component == component,
            col(FlowState.state_hash) != (besides or ""),
            _without_token(),
        )
        .limit(1)
    )
    return (await session.exec(statement)).first() is not None


def _without_token() -> ColumnElement[bool]:
    """A code was taken to Segment and nothing was kept of it: the answer was lost or refused, or the process died."""
    unknown = or_(
        col(FlowState.failure).in_(_WITHOUT_TOKEN),
        and_(col(FlowState.failure).is_(None), col(FlowState.finished_at).is_(None)),
    )
    return and_(col(FlowState.code_hash).is_not(None), col(FlowState.install_id).is_(None), unknown)


async def take_failure(
    session: AsyncSession, state: str, cookie: str, *, failures: Collection[str], becomes: str
) -> FlowState | None:
    """Turn a flow's recorded failure into another, once, for the browser it belongs to; ``None`` otherwise.

    Args:
        failures: those that may be recorded.
    """
    statement = (
        update(FlowState)
        .where(
            col(FlowState.state_hash) == digest(state),
            col(FlowState.cookie_hash) == digest(cookie),
            col(FlowState.failure).in_(failures),
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
