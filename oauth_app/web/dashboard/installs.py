"""Installs in the dashboard: the list, one of them, and the acts on it."""

from __future__ import annotations

import re

from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.responses import RedirectResponse, Response

from enable_with_segment.db.control import api_keys as stored_keys
from enable_with_segment.db.control import audit, destinations, install_overview, installs, outbox
from enable_with_segment.db.control.tables import Install
from enable_with_segment.installs.record import queue_provisioning
from enable_with_segment.installs.refusals import read_together
from enable_with_segment.installs.removal import can_be_kept, keep
from enable_with_segment.oauth_app.operators.actions import Act
from enable_with_segment.oauth_app.web.dashboard.access import Visit

_INSTALL_ID = re.compile(r"ins_[a-z0-9]{20}")
_PAGE = 50
_UNKNOWN = (404, "No such install", "It may have been typed wrong.")


async def list_installs(visit: Visit) -> Response:
    """The first page: where every install stands."""
    account = visit.request.query_params.get("account", "").strip()[:200]
    async with visit.services.database.transaction() as session:
        before = await _find(session, visit.request.query_params.get("before", ""))
        wanted = account if account.isprintable() else "\N{REPLACEMENT CHARACTER}"
        page = await installs.page(session, account=wanted or None, before=before, limit=_PAGE + 1)
        lines = await install_overview.overview(session, page[:_PAGE])
        statuses = await install_overview.count_by_status(session)
        together = await read_together(session)
    more = page[_PAGE - 1].id if len(page) > _PAGE else None
    return visit.page("installs.html", lines=lines, statuses=statuses, account=account, more=more, together=together)


async def show_install(visit: Visit) -> Response:
    """One install: names, destination, keys, waiting work, and what was done to it."""
    async with visit.services.database.transaction() as session:
        install = await _find(session, visit.request.path_params["install_id"])
        if install is None:
            return visit.message(*_UNKNOWN)
        (line,) = await install_overview.overview(session, [install])
        destination = await destinations.get(session, install.id)
        waiting = await outbox.open_of_install(session, install.id)
        keys = [k for k in await stored_keys.list_all(session, account=install.account) if k.install_id == install.id]
        history = await audit.list_newest(session, subject=install.id, limit=20)
    return visit.page(
        "install.html",
        line=line,
        destination=destination,
        waiting=waiting,
        keys=keys,
        history=history,
        can_be_kept=can_be_kept(install),
    )


async def reconcile(visit: Visit) -> Response:
    """Compare the destination with what it should be, and mend it."""
    async with visit.services.database.transaction() as session:
        install = await _find(session, visit.request.path_params["install_id"])
    if install is None:
        return visit.message(*_UNKNOWN)
    if install.status.over:
        return visit.message(409, "It is disconnected", "The customer has to connect it again.")
    await visit.note(Act.RECONCILE, install.id)
    async with visit.services.database.transaction() as session:
        await queue_provisioning(session, install.id, now=visit.services.clock())
    visit.services.wake_outbox()
    return _back(install)


async def disconnect(visit: Visit) -> Response:
    """Switch the install's destination off in Segment, then refuse its key and erase its token."""
    return await _with_provisioner(visit, Act.DISCONNECT)


async def keep_install(visit: Visit) -> Response:
    """Undo a disconnect that is under way, or a removal that Segment reported: set the install up again."""
    async with visit.services.database.transaction() as session:
        install = await _find(session, visit.request.path_params["install_id"])
    if install is None:
        return visit.message(*_UNKNOWN)
    await visit.note(Act.KEEP, install.id)
    async with visit.services.database.transaction() as session:
        kept = await keep(session, install.id, actor=visit.operator.actor, now=visit.services.clock())
    if not kept:
        return visit.message(409, "There is nothing to undo", "It is not being disconnected, or that is done already.")
    visit.services.wake_outbox()
    return _back(install)


async def rotate_key(visit: Visit) -> Response:
    """Push a new API key to Segment; the old one goes on working for a day."""
    return await _with_provisioner(visit, Act.ROTATE_KEY)


async def _with_provisioner(visit: Visit, act: Act) -> Response:
    provisioner = visit.services.provisioner
    async with visit.services.database.transaction() as session:
        install = await _find(session, visit.request.path_params["install_id"])
    if install is None:
        return visit.message(*_UNKNOWN)
    if provisioner is None:
        return visit.message(409, "No Segment App is configured", "Segment cannot be asked to change anything.")
    await visit.note(act, install.id)
    try:
        if act is Act.DISCONNECT:
            await provisioner.disconnect(install.id, actor=visit.operator.actor)
        else:
            await provisioner.rotate_key(install.id, actor=visit.operator.actor)
    except KeyError:
        return visit.message(409, "It was never set up", "There is no destination of this install yet.")
    visit.services.wake_outbox()
    return _back(install)


async def _find(session: AsyncSession, install_id: str) -> Install | None:
    return await installs.get(session, install_id) if _INSTALL_ID.fullmatch(install_id) else None


def _back(install: Install) -> Response:
    return RedirectResponse(f"/dashboard/installs/{install.id}", status_code=303)
