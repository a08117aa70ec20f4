"""Who gets in: every page needs a session, every act needs an operator's session and a request of our own pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from enable_with_segment.oauth_app.operators import actions as acts
from enable_with_segment.oauth_app.operators.actions import Act
from enable_with_segment.oauth_app.operators.roles import Operator
from enable_with_segment.oauth_app.web.dashboard.pages import Frame, render
from enable_with_segment.oauth_app.web.paths import path_below_mount
from enable_with_segment.oauth_app.web.routes.forms import read_form
from enable_with_segment.oauth_app.web.same_site import is_same_site
from enable_with_segment.oauth_app.web.services import Services, services_of

_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of somebody who may make it. ``form`` and ``reason`` are empty for a page."""

    services: Services
    operator: Operator
    request: Request
    stopped: bool
    form: Mapping[str, str]
    reason: str

    def page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """Render a page for this visitor."""
        return render(template, values, frame_of(self.services, self.operator, stopped=self.stopped), status=status)

    def go_to(self, path: str) -> Response:
        """Send the browser to a page of the dashboard, after an act."""
        return RedirectResponse(self.services.settings.path_to(path), status_code=303)

    def message(self, status: int, heading: str, sentence: str) -> Response:
        """Render a page that only says something."""
        return self.page("message.html", status=status, heading=heading, sentence=sentence)

    async def note(self, act: Act, subject: str) -> None:
        """Write the act into the audit; called before it is done."""
        async with self.services.database.transaction() as session:
            await acts.note(
                session, act, subject, actor=self.operator.actor, reason=self.reason, now=self.services.clock()
            )


Endpoint: TypeAlias = Callable[[Visit], Awaitable[Response]]


def viewing(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """Let anybody who is signed in look."""

    async def guarded(request: Request) -> Response:
        services = services_of(request)
        operator = await signed_in(services, request)
        if operator is None:
            return _to_sign_in(services, request)
        return await endpoint(Visit(services, operator, request, await services.panic.engaged(), {}, ""))

    return guarded


def acting(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """Let operators act: with a session, from our own pages (DA-1), and with a reason (DA-4)."""

    async def guarded(request: Request) -> Response:
        services = services_of(request)
        if not is_same_site(request.headers, base_url=services.settings.base_url):
            return refuse(services, 403, "Please use our own page", "The request came from another site.")
        operator = await signed_in(services, request)
        if operator is None:
            return refuse(services, 401, "Please sign in", "Your session has ended. Nothing was changed.")
        if not operator.may_act:
            return refuse(services, 403, "You may look, not act", "Your role is viewer. Nothing was changed.")
        form = await read_form(request)
        reason = form.get("reason", "").strip()
        if not reason or len(reason) > _LONGEST_REASON or not reason.isprintable():
            return refuse(services, 400, "A reason is needed", "Say in a few words why; it is kept in the audit.")
        return await endpoint(Visit(services, operator, request, await services.panic.engaged(), form, reason))

    return guarded


async def signed_in(services: Services, request: Request) -> Operator | None:
    """Tell who is signed in with this browser."""
    sessions = services.operators.sessions
    return await sessions.look(request.cookies.get(sessions.cookie_name))


def refuse(services: Services, status: int, heading: str, sentence: str) -> Response:
    """Answer somebody who is not let in."""
    return render("message.html", {"heading": heading, "sentence": sentence}, frame_of(services), status=status)


def frame_of(services: Services, operator: Operator | None = None, *, stopped: bool = False) -> Frame:
    """Return what stands around a page."""
    settings = services.settings
    return Frame(settings.partner_name, operator, stopped, services.clock(), settings.base_path)


def _to_sign_in(services: Services, request: Request) -> Response:
    wanted = path_below_mount(request.scope)
    if request.scope["query_string"]:
        wanted += "?" + request.scope["query_string"].decode("latin-1")
    location = services.settings.path_to(f"/dashboard/sign-in?to={quote(wanted, safe='')}")
    return RedirectResponse(location, status_code=303, headers={"Cache-Control": "no-store"})
