"""Installs in the dashboard: the list, one of them, and the acts on it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial

from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.responses import Response

from enable_with_segment.db.control import api_keys as stored_keys
from enable_with_segment.db.control import audit, destinations, install_overview, installs, outbox
from enable_with_segment.db.control.tables import Install
from enable_with_segment.installs.acts import ActRefused, InstallAct, lock_for, why_not
from enable_with_segment.installs.record import queue_provisioning
from enable_with_segment.installs.refusals import read_together
from enable_with_segment.installs.removal import keep
from enable_with_segment.oauth_app.operators.actions import Act
from enable_with_segment.oauth_app.web.dashboard.access import Visit

_INSTALL_ID = re.compile(r"ins_[a-z0-9]{20}")
_PAGE = 50
_UNKNOWN = (404, "No such install", "It may have been typed wrong.")
_NO_APP = (409, "No Segment App is configured", "Segment cannot be asked to change anything.")


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
    fits = {act.value for act in InstallAct if why_not(act, install) is None}
    return visit.page(
        "install.html",
        line=line,
        destination=destination,
        waiting=waiting,
        keys=keys,
        history=history,
        fits=fits,
    )


async def reconcile(visit: Visit) -> Response:
    """Compare the destination with what it should be, and mend it."""

    async def queue(install_id: str) -> None:
        async with visit.services.database.transaction() as session:
            await lock_for(session, InstallAct.RECONCILE, install_id)
            await queue_provisioning(session, install_id, now=visit.services.clock())

    return await _act(visit, InstallAct.RECONCILE, queue)


async def disconnect(visit: Visit) -> Response:
    """Switch the install's destination off in Segment, then refuse its key and erase its token."""
    provisioner = visit.services.provisioner
    if provisioner is None:
        return visit.message(*_NO_APP)
    return await _act(visit, InstallAct.DISCONNECT, partial(provisioner.disconnect, actor=visit.operator.actor))


async def keep_install(visit: Visit) -> Response:
    """Undo a disconnect that is under way, or a removal that Segment reported: set the install up again."""

    async def undo(install_id: str) -> None:
        async with visit.services.database.transaction() as session:
            await keep(session, install_id, actor=visit.operator.actor, now=visit.services.clock())

    return await _act(visit, InstallAct.KEEP, undo)


async def rotate_key(visit: Visit) -> Response:
    """Push a new API key to Segment; the old one goes on working for a day."""
    provisioner = visit.services.provisioner
    if provisioner is None:
        return visit.message(*_NO_APP)
    return await _act(visit, InstallAct.ROTATE_KEY, partial(provisioner.rotate_key, actor=visit.operator.actor))


async def _act(visit: Visit, act: InstallAct, do: Callable[[str], Awaitable[None]]) -> Response:
    """Do an act that fits the install's state, after a note of it in the audit; otherwise 409."""
    async with visit.services.database.transaction() as session:
        install = await _find(session, visit.request.path_params["install_id"])
    if install is None:
        return visit.message(*_UNKNOWN)
    problem = why_not(act, install)
    if problem is None:
        await visit.note(Act(act), install.id)
        try:
            await do(install.id)
        except ActRefused as refused:  # its state has changed since
            problem = str(refused)
    if problem is not None:
        return visit.message(409, "This isn’t possible now", problem)
    visit.services.wake_outbox()
    return visit.go_to(f"/dashboard/installs/{install.id}")


async def _find(session: AsyncSession, install_id: str) -> Install | None:
    return await installs.get(session, install_id) if _INSTALL_ID.fullmatch(install_id) else None
