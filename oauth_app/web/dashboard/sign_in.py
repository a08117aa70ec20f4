"""Signing in and out."""

from __future__ import annotations

import logging
import re
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from enable_with_segment.oauth_app.operators.identity_provider import ProviderUnavailable
from enable_with_segment.oauth_app.operators.logins import LIFETIME, LoginRefused, cookie_name
from enable_with_segment.oauth_app.operators.roles import Operator
from enable_with_segment.oauth_app.operators.sessions import LIFETIME as SESSION_LIFETIME
from enable_with_segment.oauth_app.web.dashboard.access import frame_of, refuse, signed_in
from enable_with_segment.oauth_app.web.dashboard.pages import render
from enable_with_segment.oauth_app.web.rate_limits import Purpose, limited
from enable_with_segment.oauth_app.web.same_site import is_same_site, is_speculative
from enable_with_segment.oauth_app.web.services import Services, services_of

logger = logging.getLogger(__name__)

_HOME = "/dashboard"
_CALLBACK = "/dashboard/callback"
_OWN_PAGE = re.compile(r"/dashboard(?:[/?][\x21-\x5b\x5d-\x7e]*)?")
_AWAY = ("Signing in is not possible now", "The identity provider does not answer. Please try again in a minute.")


def routes() -> list[Route]:
    """The way in and the way out."""
    return [
        Route("/dashboard/sign-in", sign_in_page, methods=["GET"]),
        Route("/dashboard/login", limited(Purpose.LOGIN, login), methods=["GET"]),
        Route(_CALLBACK, limited(Purpose.LOGIN, callback), methods=["GET"]),
        Route("/dashboard/sign-in/{token}", limited(Purpose.LOGIN, link_page), methods=["GET"]),
        Route("/dashboard/sign-in/{token}", limited(Purpose.LOGIN, link_confirmed), methods=["POST"]),
        Route("/dashboard/sign-out", sign_out, methods=["POST"]),
    ]


async def sign_in_page(request: Request) -> Response:
    """Offer what there is to sign in with."""
    services = services_of(request)
    if await signed_in(services, request) is not None:
        return _to(services.settings.path_to(own_page(request.query_params.get("to"))))
    values = {
        "provider": services.operators.logins is not None,
        "link": services.operators.logins is None and services.operators.links is not None,
        "login_url": services.settings.path_to(
            f"/dashboard/login?to={quote(own_page(request.query_params.get('to')), safe='')}"
        ),
    }
    return render("sign_in.html", values, frame_of(services))


async def login(request: Request) -> Response:
    """Send the browser to the identity provider."""
    services = services_of(request)
    if services.operators.logins is None:
        return refuse(services, 404, "There is no identity provider", "Set OIDC_ISSUER to sign in with one.")
    if request.method == "HEAD" or is_speculative(request.headers):
        return Response(status_code=204, headers={"Cache-Control": "no-store"})
    try:
        started = await services.operators.logins.start(own_page(request.query_params.get("to")))
    except LoginRefused as refused:
        return refuse(services, refused.status, "Please wait", str(refused))
    except ProviderUnavailable as problem:
        logger.error("the identity provider cannot be used: %s", problem)  # noqa: TRY400 - told in a sentence
        return refuse(services, 503, *_AWAY)
    response = _to(started.url)
    response.set_cookie(
        started.cookie_name,
        started.cookie_value,
        max_age=int(LIFETIME.total_seconds()),
        path=services.settings.path_to(_CALLBACK),
        secure=services.operators.sessions.secure,
        httponly=True,
        samesite="lax",
    )
    return response


async def callback(request: Request) -> Response:
    """Take the identity provider's answer."""
    services = services_of(request)
    logins = services.operators.logins
    if logins is None:
        return refuse(services, 404, "There is no identity provider", "Set OIDC_ISSUER to sign in with one.")
    names = [name for name, _ in request.query_params.multi_items()]
    if any(names.count(name) > 1 for name in ("code", "state", "error")):
        return refuse(services, 400, "Signing in didn’t work", "The answer names something twice (RFC 6749, 3.1).")
    state = request.query_params.get("state")
    login_cookie = cookie_name(state or "")
    try:
        operator, return_to = await logins.finish(
            state=state,
            code=request.query_params.get("code"),
            error=request.query_params.get("error"),
            cookie=request.cookies.get(login_cookie),
        )
    except LoginRefused as refused:
        return refuse(services, refused.status, "Signing in didn’t work", str(refused))
    except ProviderUnavailable as problem:
        logger.error("the identity provider cannot be used: %s", problem)  # noqa: TRY400 - told in a sentence
        return refuse(services, 503, *_AWAY)
    response = await _begin(services, operator, by="identity provider", to=return_to)
    response.delete_cookie(login_cookie, path=services.settings.path_to(_CALLBACK))
    return response


async def link_page(request: Request) -> Response:
    """Ask before a sign-in link is used up, so that looking at it does no harm."""
    services = services_of(request)
    if services.operators.links is None:
        return refuse(services, 404, "There are no sign-in links here", "Sign in with your identity provider.")
    return render("sign_in_link.html", {}, frame_of(services))


async def link_confirmed(request: Request) -> Response:
    """Use a sign-in link up."""
    services = services_of(request)
    if not is_same_site(request.headers, base_url=services.settings.base_url):
        return refuse(services, 403, "Please use our own page", "The request came from another site.")
    links = services.operators.links
    operator = None if links is None else await links.use(request.path_params["token"])
    if operator is None:
        sentence = "It was used already or has expired. Make another one with: enable-with-segment dashboard-link"
        return refuse(services, 404, "This link can’t be used", sentence)
    return await _begin(services, operator, by="link", to=_HOME)


async def sign_out(request: Request) -> Response:
    """End the session."""
    services = services_of(request)
    sessions = services.operators.sessions
    operator = await signed_in(services, request)
    if not is_same_site(request.headers, base_url=services.settings.base_url):
        return refuse(services, 403, "Please use our own page", "The request came from another site.")
    if operator is not None:
        await sessions.end(request.cookies[sessions.cookie_name], operator)
    response = _to(services.settings.path_to("/dashboard/sign-in"))
    response.delete_cookie(sessions.cookie_name, path="/", secure=sessions.secure, httponly=True, samesite="lax")
    return response


def own_page(address: str | None) -> str:
    """Return a page of the dashboard to go to; anything else reads as its first page."""
    return address if address is not None and _OWN_PAGE.fullmatch(address) else _HOME


async def _begin(services: Services, operator: Operator, *, by: str, to: str) -> Response:
    sessions = services.operators.sessions
    token = await sessions.begin(operator, by=by)
    response = _to(services.settings.path_to(to))
    response.set_cookie(
        sessions.cookie_name,
        token,
        max_age=int(SESSION_LIFETIME.total_seconds()),
        path="/",
        secure=sessions.secure,
        httponly=True,
        samesite="lax",
    )
    return response


def _to(location: str) -> Response:
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return RedirectResponse(location, status_code=303, headers=headers)
