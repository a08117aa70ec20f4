"""Asking the partner's product who is signed in in this browser."""

from __future__ import annotations

from starlette.requests import Request

from enable_with_segment.oauth_app.web.services import Services


async def signed_in_account(services: Services, request: Request) -> str | None:
    """Return the account that is signed in; ``None`` for nobody, and where ``PARTNER_SESSION`` is not set."""
    return None if services.partner_session is None else await services.partner_session(request)


async def is_other_account(services: Services, request: Request, account: str) -> bool:
    """Whether somebody else than this account is signed in (OA-21, OA-22)."""
    signed_in = await signed_in_account(services, request)
    return signed_in is not None and signed_in != account
