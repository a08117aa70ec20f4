"""Asking the partner's product who is signed in in this browser."""

from __future__ import annotations

from starlette.requests import Request

from enable_with_segment.components.partner_call import PartnerFunctionFailed, call_partner
from enable_with_segment.db.identifiers import AccountInvalid, check_account
from enable_with_segment.oauth_app.web.services import Services

_SECONDS = 5.0
"""How long ``PARTNER_SESSION`` may take: a customer waits for the page."""


async def signed_in_account(services: Services, request: Request) -> str | None:
    """Return the account that is signed in; ``None`` for nobody, and where ``PARTNER_SESSION`` is not set.

    Raises:
        PartnerFunctionFailed: the function raised, took too long, or returned something that is no account.
    """
    function = services.partner_session
    if function is None:
        return None
    name = f"PARTNER_SESSION ({services.settings.partner_session})"
    account = await call_partner(name, lambda: function(request), seconds=_SECONDS)
    try:
        return None if account is None else check_account(account)
    except AccountInvalid as problem:
        raise PartnerFunctionFailed(name, f"returned something else: {problem}") from None


async def is_other_account(services: Services, request: Request, account: str) -> bool:
    """Return True if somebody else than this account is signed in (OA-21, OA-22).

    Raises:
        PartnerFunctionFailed: as :func:`signed_in_account`.
    """
    signed_in = await signed_in_account(services, request)
    return signed_in is not None and signed_in != account
