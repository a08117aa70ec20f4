"""The routes a customer's browser walks through: connect page, start, callback, and the key to paste by hand."""

from __future__ import annotations

import re
import secrets

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from enable_with_segment.db.control.tables import ConnectLink
from enable_with_segment.oauth_app.flow.callback_query import CodeReturned, Refused, read_callback
from enable_with_segment.oauth_app.flow.cookies import BROWSER, cookie_name
from enable_with_segment.oauth_app.flow.failures import FAILURES, FailureReason
from enable_with_segment.oauth_app.flow.flow_starts import COOKIE_LIFETIME
from enable_with_segment.oauth_app.flow.outcomes import (
    FlowConnected,
    FlowFailed,
    FlowOutcome,
    FlowPending,
    FlowStarted,
    note_failure,
)
from enable_with_segment.oauth_app.web.rate_limits import Purpose, limited, too_often
from enable_with_segment.oauth_app.web.routes.forms import read_form
from enable_with_segment.oauth_app.web.routes.partner_account import is_other_account, signed_in_account
from enable_with_segment.oauth_app.web.same_site import is_same_site, is_speculative
from enable_with_segment.oauth_app.web.services import Services, services_of

_COOKIE_PATH = "/auth/segment"
_LINK_COOKIE_PATH = "/connect"
_LINK_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,100}")


def routes() -> list[Route]:
    """The routes of the install flow."""
    return [
        Route("/connect/{link}", limited(Purpose.CONNECT, connect_page), methods=["GET"]),
        Route("/connect/{link}", limited(Purpose.CONNECT, connect_confirmed), methods=["POST"]),
        Route("/auth/segment", limited(Purpose.CONNECT, start), methods=["GET"]),
        Route("/auth/segment/callback", limited(Purpose.CALLBACK, callback, own_bucket=_ended_flow), methods=["GET"]),
        Route("/auth/segment/manual-key", manual_key, methods=["POST"]),
        Route("/auth/segment/choose", choose, methods=["POST"]),
    ]


async def connect_page(request: Request) -> Response:
    """Name the account and ask. Looking does not use the link up, so mail scanners do no harm (EM-3).

    The browser that used a link up sees its page again, or the install that came of it.
    """
    services = services_of(request)
    if services.flow is None:
        return services.pages.failure(FailureReason.OAUTH_NOT_CONFIGURED)
    browser = request.cookies.get(BROWSER)
    link = await services.flow.starts.look(request.path_params["link"], browser=browser)
    if link is None:
        return services.pages.failure(FailureReason.LINK_UNUSABLE)
    if isinstance(link, FlowConnected):
        return _show(services, link, state=None)
    if await is_other_account(services, request, link.account):
        return services.pages.failure(FailureReason.OTHER_ACCOUNT)
    page = services.pages.connect(link.account)
    if browser is None:
        _set_cookie(services, page, BROWSER, secrets.token_urlsafe(32), path=_LINK_COOKIE_PATH)
    return page


async def connect_confirmed(request: Request) -> Response:
    """Use the link up and send the browser to Segment."""
    services = services_of(request)
    if services.flow is None:
        return services.pages.failure(FailureReason.OAUTH_NOT_CONFIGURED)
    if not is_same_site(request.headers, base_url=services.settings.base_url):
        return services.pages.failure(FailureReason.CROSS_SITE)
    token = request.path_params["link"]
    if await services.panic.engaged():
        return services.pages.failure(FailureReason.SERVICE_STOPPED)
    browser = request.cookies.get(BROWSER)
    link = await services.flow.starts.look(token, browser=browser)
    if isinstance(link, ConnectLink) and await is_other_account(services, request, link.account):
        return services.pages.failure(FailureReason.OTHER_ACCOUNT)
    started = await services.flow.starts.start_by_link(token, browser=browser)
    return _to_segment(services, started, status=303)


async def start(request: Request) -> Response:
    """Start for whoever is signed in to the partner's product; nobody is sent to Segment anonymously (case 1)."""
    services = services_of(request)
    if services.flow is None:
        return services.pages.failure(FailureReason.OAUTH_NOT_CONFIGURED)
    link = request.query_params.get("link")
    if link:
        if _LINK_TOKEN.fullmatch(link) is None:
            return services.pages.failure(FailureReason.LINK_UNUSABLE)
        return RedirectResponse(services.settings.path_to(f"/connect/{link}"), status_code=303)
    if request.method == "HEAD" or is_speculative(request.headers):
        return Response(status_code=204, headers={"Cache-Control": "no-store"})
    if await services.panic.engaged():
        return services.pages.failure(FailureReason.SERVICE_STOPPED)
    account = await signed_in_account(services, request)
    if account is None:
        if services.settings.partner_login_url:
            return RedirectResponse(services.settings.partner_login_url, status_code=303)
        return services.pages.failure(FailureReason.NOT_SIGNED_IN)
    reconnects = request.query_params.get("reconnect") or None
    return _to_segment(services, await services.flow.starts.start(account, reconnects=reconnects), status=302)


async def callback(request: Request) -> Response:
    """Take Segment's answer; the exchange happens once, whatever the browser repeats (cases 4-20)."""
    services = services_of(request)
    if services.flow is None:
        return services.pages.failure(FailureReason.OAUTH_NOT_CONFIGURED)
    if request.method == "HEAD" or is_speculative(request.headers):
        return Response(status_code=204, headers={"Cache-Control": "no-store"})
    returned = read_callback(request.query_params.multi_items(), issuer=services.settings.segment_identity_url)
    if isinstance(returned, Refused):
        return services.pages.failure(returned.reason, incident=note_failure(returned.reason))
    if await services.panic.engaged():
        return services.pages.failure(FailureReason.SERVICE_STOPPED)
    cookie = request.cookies.get(cookie_name(returned.state or ""))
    if isinstance(returned, CodeReturned):
        signed_in = await signed_in_account(services, request)
        outcome = await services.flow.finish(returned, cookie=cookie, signed_in=signed_in)
    else:
        outcome = await services.flow.refuse(returned, cookie=cookie)
    return _show(services, outcome, state=returned.state)


async def manual_key(request: Request) -> Response:
    """Mint a key to paste by hand, for the browser that was told of another install (contract case 16)."""
    services = services_of(request)
    if services.flow is None:
        return services.pages.failure(FailureReason.OAUTH_NOT_CONFIGURED)
    state = (await read_form(request)).get("state", "")
    refused = too_often(Purpose.MANUAL_KEY, request, bucket=_own_flow(request, state))
    if refused is not None:
        return refused
    if not is_same_site(request.headers, base_url=services.settings.base_url):
        return services.pages.failure(FailureReason.CROSS_SITE)
    if await services.panic.engaged():
        return services.pages.failure(FailureReason.SERVICE_STOPPED)
    made = await services.flow.manual_key(state, cookie=request.cookies.get(cookie_name(state)))
    if isinstance(made, FlowFailed):
        return services.pages.failure(made.reason)
    return services.pages.manual_key(account=made.account, api_key=made.api_key, return_to=made.return_to)


async def choose(request: Request) -> Response:
    """Go on with the install that the customer says Segment meant."""
    services = services_of(request)
    if services.flow is None:
        return services.pages.failure(FailureReason.OAUTH_NOT_CONFIGURED)
    form = await read_form(request)
    state, install_id = form.get("state", ""), form.get("install", "")
    refused = too_often(Purpose.MANUAL_KEY, request, bucket=_own_flow(request, state))
    if refused is not None:
        return refused
    if not is_same_site(request.headers, base_url=services.settings.base_url):
        return services.pages.failure(FailureReason.CROSS_SITE)
    if await services.panic.engaged():
        return services.pages.failure(FailureReason.SERVICE_STOPPED)
    outcome = await services.flow.choose(state, install_id, cookie=request.cookies.get(cookie_name(state)))
    return _show(services, outcome, state=state)


def _ended_flow(request: Request) -> str | None:
    """Name the flow that a callback ends, if the browser is the one it was started in."""
    states = request.query_params.getlist("state")
    return _own_flow(request, states[0]) if len(states) == 1 else None


def _own_flow(request: Request, state: str) -> str | None:
    """Name a flow, if the browser is the one it was started in.

    What such a browser asks for is counted by itself. Whatever others do, from the same address or with a made up
    state, a customer who comes back from Segment is never told to wait for them.
    """
    services = services_of(request)
    cookie = request.cookies.get(cookie_name(state))
    if services.flow is None or cookie is None or not services.flow.cookies.is_ours(state, cookie):
        return None
    return cookie_name(state)


def _to_segment(services: Services, started: FlowStarted | FlowConnected | FlowFailed, *, status: int) -> Response:
    if isinstance(started, FlowConnected):
        return _show(services, started, state=None)
    if isinstance(started, FlowFailed):
        return services.pages.failure(started.reason, return_to=started.return_to)
    response = RedirectResponse(started.url, status_code=status)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "no-referrer"
    _set_cookie(services, response, started.cookie_name, started.cookie_value, path=_COOKIE_PATH)
    return response


def _set_cookie(services: Services, response: Response, name: str, value: str, *, path: str) -> None:
    response.set_cookie(
        name,
        value,
        max_age=int(COOKIE_LIFETIME.total_seconds()),
        path=services.settings.path_to(path),
        secure=services.settings.secure_cookies,
        httponly=True,
        samesite="lax",
    )


def _show(services: Services, outcome: FlowOutcome, *, state: str | None) -> Response:
    match outcome:
        case FlowConnected(install_id):
            services.wake_outbox()
            token = services.status_links.make(install_id, now=services.clock())
            response: Response = RedirectResponse(services.settings.path_to(f"/status/{token}"), status_code=303)
            response.headers["Cache-Control"] = "no-store"
            response.headers["Referrer-Policy"] = "no-referrer"
            return response
        case FlowPending():
            return services.pages.pending()
        case FlowFailed(reason, return_to, incident, choices):
            by_hand = state if FAILURES[reason].next_step.offers_key else None
            return services.pages.failure(
                reason, incident=incident, return_to=return_to, manual_key_state=by_hand, choices=choices
            )
