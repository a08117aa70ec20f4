"""Accounts: the partner's customers."""

from __future__ import annotations

from datetime import datetime

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control.tables import Account
from enable_with_segment.db.identifiers import check_account


async def ensure(session: AsyncSession, account: str, *, now: datetime) -> Account:
    """Return the account, added if it is new.

    Raises:
        AccountInvalid: no account can have this identifier.
    """
    found = await session.get(Account, check_account(account))
    if found is None:
        found = Account(id=account, created_at=now)
        session.add(found)
        await session.flush()
    return found


async def set_suspended(session: AsyncSession, account: str, suspended_at: datetime | None) -> None:
    """Suspend the account (its deliveries get 403) or, with ``None``, let it work again.

    Raises:
        KeyError: no such account.
    """
    found = await session.get(Account, account)
    if found is None:
        raise KeyError(account)
    found.suspended_at = suspended_at
    session.add(found)
