"""The page that shows where an install stands; the same facts as JSON for a partner's front end."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from enable_with_segment.db.control import audit, flow_states, installs
from enable_with_segment.db.control.tables import Install, InstallStatus
from enable_with_segment.installs.acts import ActRefused, InstallAct, lock_for
from enable_with_segment.installs.record import queue_provisioning
from enable_with_segment.oauth_app.flow.failures import FailureReason
from enable_with_segment.oauth_app.web.paths import path_below_mount
from enable_with_segment.oauth_app.web.rate_limits import Purpose, limited
from enable_with_segment.oauth_app.web.routes.forms import read_form
from enable_with_segment.oauth_app.web.routes.partner_account import is_other_account
from enable_with_segment.oauth_app.web.same_site import is_same_site
from enable_with_segment.oauth_app.web.services import Services, services_of


def routes() -> list[Route]:
    """The routes of the status page."""
    return [
        Route("/status/{link}", limited(Purpose.STATUS, show, own_bucket=_install_id), methods=["GET"]),
        Route("/status/{link}", limited(Purpose.STATUS, change, own_bucket=_install_id), methods=["POST"]),
    ]


async def show(request: Request) -> Response:
    """Show the install of a signed link; JSON when the request asks for it."""
    services = services_of(request)
    install = await _install(services, request)
    if install is None:
        return services.pages.failure(FailureReason.LINK_UNUSABLE)
    if await is_other_account(services, request, install.account):
        return services.pages.failure(FailureReason.OTHER_ACCOUNT)
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse(_as_json(install), headers={"Cache-Control": "no-store"})
    async with services.database.transaction() as session:
        flow = await flow_states.newest_of_install(session, install.id)
    return services.pages.status(install, return_to=None if flow is None else flow.return_to, now=services.clock())


async def change(request: Request) -> Response:
    """Do what the page's button says: try provisioning again, or use our key (contract case 50)."""
    services = services_of(request)
    install = await _install(services, request)
    if install is None:
        return services.pages.failure(FailureReason.LINK_UNUSABLE)
    if await is_other_account(services, request, install.account):
        return services.pages.failure(FailureReason.OTHER_ACCOUNT)
    if not is_same_site(request.headers, base_url=services.settings.base_url):
        return services.pages.failure(FailureReason.CROSS_SITE)
    act = _BUTTONS.get((await read_form(request)).get("action", ""))
    if act is None or not await _provision_again(services, install.id, act):
        # The page was old, or its button was pressed twice: show what is true now.
        shown = await show(request)
        shown.status_code = 409
        return shown
    services.wake_outbox()
    return RedirectResponse(services.settings.path_to(path_below_mount(request.scope)), status_code=303)


_BUTTONS = {act.value: act for act in (InstallAct.RETRY, InstallAct.CONFIRM)}


async def _provision_again(services: Services, install_id: str, act: InstallAct) -> bool:
    """Queue provisioning, unless the act does not fit any more."""
    now = services.clock()
    async with services.database.transaction() as session:
        try:
            install = await lock_for(session, act, install_id)
        except (KeyError, ActRefused):
            return False
        await installs.set_status(session, install_id, InstallStatus.PROVISIONING, now=now)
        await queue_provisioning(session, install_id, now=now, overwrite=act is InstallAct.CONFIRM)
        actor = f"account:{install.account}"
        await audit.add(session, actor=actor, action=f"install.{act}", subject=install_id, now=now)
    return True


async def _install(services: Services, request: Request) -> Install | None:
    install_id = _install_id(request)
    if install_id is None:
        return None
    async with services.database.transaction() as session:
        return await installs.get(session, install_id)


def _install_id(request: Request) -> str | None:
    """Name the install of a link that we signed. What is asked with it is counted for the install, not the address."""
    services = services_of(request)
    return services.status_links.open(request.path_params["link"], now=services.clock())


def _as_json(install: Install) -> dict[str, str | None]:
    return {
        "install": install.id,
        "account": install.account,
        "workspace": install.workspace_name,
        "source": install.source_name,
        "status": install.status.value,
        "reason": install.status_reason,
        "detail": install.status_detail,
        "last_event_at": None if install.last_event_at is None else install.last_event_at.isoformat(),
    }
