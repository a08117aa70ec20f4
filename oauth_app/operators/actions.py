"""Acts of operators, at the dashboard or at the command line: written into the audit with a reason (DA-4)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control import audit


class Act(StrEnum):
    """What an operator can do; in the audit as ``operator.{act}``, beside what the service then did."""

    RECONCILE = "reconcile"
    ROTATE_KEY = "rotate_key"
    REFRESH = "refresh"
    DISCONNECT = "disconnect"
    KEEP = "keep"
    REENCRYPT = "reencrypt"
    REVOKE_API_KEY = "revoke_api_key"
    REVOKE_API_TOKEN = "revoke_api_token"  # noqa: S105 - the name of an act
    SUSPEND_ACCOUNT = "suspend_account"
    RESUME_ACCOUNT = "resume_account"
    RETRY_DEAD_LETTERS = "retry_dead_letters"
    SHOW_PAYLOAD = "show_payload"


async def note(session: AsyncSession, act: Act, subject: str, *, actor: str, reason: str | None, now: datetime) -> None:
    """Write an act into the audit; do it before the act, or in its transaction, so that nothing is done unseen."""
    await audit.add(session, actor=actor, action=f"operator.{act}", subject=subject, reason=reason, now=now)
