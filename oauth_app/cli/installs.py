"""``installs``: every connected workspace, and what an operator can do with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import destinations, install_tokens, outbox
from enable_with_segment.db.control import installs as stored_installs
from enable_with_segment.db.control.tables import Install
from enable_with_segment.installs.acts import ActRefused, InstallAct, lock_for
from enable_with_segment.installs.reconciliation import queue_checks
from enable_with_segment.installs.record import queue_provisioning
from enable_with_segment.installs.removal import keep
from enable_with_segment.installs.tokens import AccessLost
from enable_with_segment.oauth_app.cli.output import (
    FAILED,
    AsJson,
    Reason,
    checked_account,
    print_json,
    print_table,
    run,
    say,
    settings_or_exit,
    stop,
)
from enable_with_segment.oauth_app.operators.actions import Act, note
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_control_store, open_stores
from enable_with_segment.oauth_app.runtime.wiring import segment_of
from enable_with_segment.segment_api.errors import SegmentError

InstallId = Annotated[str, typer.Argument(help="The install's id, from: installs list")]


def list_installs(
    account: Annotated[
        str | None, typer.Option(callback=checked_account, help="Only installs of this account.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List installs, the newest first.

    Example: enable-with-segment installs list --json
    """
    found = run(_list(settings_or_exit(), account))
    if as_json:
        print_json([_described(install) for install in found])
        return
    print_table(
        ["id", "account", "workspace", "source", "status", "connection", "reason", "last event"],
        [
            (
                i.id,
                i.account,
                i.workspace_name.removeprefix("workspaces/"),
                (i.source_name or "-").rpartition("/")[2],
                i.status.value,
                i.connection_state,
                i.status_reason or i.connection_reason,
                i.last_event_at,
            )
            for i in found
        ],
        empty="Nothing is installed yet. Make a link with: enable-with-segment connect-link --account ACCOUNT",
    )


def show(install_id: InstallId, as_json: AsJson = False) -> None:
    """Show one install: its names, token life, destination as Segment last showed it, and waiting work.

    Example: enable-with-segment installs show ins_0a1b2c --json
    """
    told = run(_show(settings_or_exit(), install_id))
    if told is None:
        stop([f"there is no install {install_id}"], 1)
    if as_json:
        print_json(told)
        return
    print_table(["", ""], [(name.replace("_", " "), value) for name, value in told.items()], empty="")


def reconcile(
    install_id: Annotated[str | None, typer.Argument(help="The install's id, from: installs list")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every install, one a second.")] = False,
    reason: Reason = None,
) -> None:
    """Compare the destination in Segment with what it should be: one is mended, all of them as RECONCILE says.

    The running service does the work; follow it with: installs list, or installs show

    Example: enable-with-segment installs reconcile ins_0a1b2c, or: enable-with-segment installs reconcile --all
    """
    if every == (install_id is not None):
        stop(["name one install, or give --all"])
    if install_id is None:
        say(f"Queued: {run(_reconcile_all(settings_or_exit(), reason))}. The running service looks at one a second.")
        return
    run(_reconcile(settings_or_exit(), install_id, reason))
    say("Queued. The running service does it within seconds.")


def refresh(install_id: InstallId, reason: Reason = None) -> None:
    """Refresh the install token now, to see whether Segment still grants access.

    Example: enable-with-segment installs refresh ins_0a1b2c
    """
    run(_refresh(settings_or_exit(), install_id, reason))
    say("Segment granted a fresh install token.")


def rotate_key(install_id: InstallId, reason: Reason = None) -> None:
    """Replace the install's API key in Segment; the old one goes on working for 24 hours.

    Example: enable-with-segment installs rotate-key ins_0a1b2c
    """
    run(_with_provisioner(settings_or_exit(), install_id, InstallAct.ROTATE_KEY, reason))
    say("Queued. The running service pushes the new key within seconds.")


def disconnect(
    install_id: InstallId,
    delete: Annotated[bool, typer.Option(help="Delete the destination in Segment instead of disabling it.")] = False,
    reason: Reason = None,
) -> None:
    """Switch the install's destination off in Segment, then refuse its key and erase its token.

    Events that Segment sends before that is done still arrive. When Segment has not let us switch it off for 72 hours,
    or the App was removed there, key and token are erased all the same. The install says so, and this command goes on.

    Example: enable-with-segment installs disconnect ins_0a1b2c --delete
    """
    run(_with_provisioner(settings_or_exit(), install_id, InstallAct.DISCONNECT, reason, delete=delete))
    say("Queued. The running service switches the destination off within seconds, then erases key and token.")


def keep_install(install_id: InstallId, reason: Reason = None) -> None:
    """Undo a disconnect, or a removal that Segment reported.

    That is possible until the install's access is erased. The destination is set up again with the same key.

    Example: enable-with-segment installs keep ins_0a1b2c
    """
    run(_keep(settings_or_exit(), install_id, reason))
    say("Kept. The running service sets it up again within seconds.")


def _described(install: Install) -> dict[str, Any]:
    return {
        "id": install.id,
        "account": install.account,
        "component": install.component,
        "install_name": install.install_name,
        "workspace": install.workspace_name,
        "source": install.source_name,
        "scope": install.scope,
        "status": install.status.value,
        "reason": install.status_reason,
        "detail": install.status_detail,
        "connection_state": install.connection_state,
        "connection_reason": install.connection_reason,
        "created_at": install.created_at,
        "last_event_at": install.last_event_at,
    }


async def _list(settings: Settings, account: str | None) -> Sequence[Install]:
    async with open_control_store(settings) as control, control.transaction() as session:
        return await stored_installs.list_all(session, account=account)


async def _show(settings: Settings, install_id: str) -> dict[str, Any] | None:
    async with open_control_store(settings) as control, control.transaction() as session:
        install = await stored_installs.get(session, install_id)
        if install is None:
            return None
        token = await install_tokens.get(session, install_id)
        destination = await destinations.get(session, install_id)
        waiting = await outbox.open_of_install(session, install_id)
    return {
        **_described(install),
        "token_refreshed_at": None if token is None else token.refreshed_at,
        "token_expires_at": None if token is None else token.expires_at,
        "token_health": None if token is None else token.health,
        "token_held_back_until": None if token is None else token.retry_at,
        "token_refused_since": None if token is None else token.refused_since,
        "token_refusal": None if token is None else token.refusal_text,
        "destination": None if destination is None else destination.name,
        "destination_seen": None if destination is None else destination.seen,
        "destination_verified_at": None if destination is None else destination.verified_at,
        "next_look_at": install.check_due_at,
        "waiting": [
            {"kind": entry.kind, "attempts": entry.attempts, "due": entry.available_at, "error": entry.last_error}
            for entry in waiting
        ],
    }


async def _note(session: AsyncSession, act: InstallAct, install_id: str, reason: str | None) -> None:
    """Write an act into the audit, or stop where it does not fit the install's state."""
    try:
        await lock_for(session, act, install_id)
    except KeyError:
        stop([f"there is no install {install_id}"], FAILED)
    except ActRefused as refused:
        stop([f"{install_id}: {refused}"], FAILED)
    await note(session, Act(act), install_id, actor="cli", reason=reason, now=utc_now())


async def _reconcile(settings: Settings, install_id: str, reason: str | None) -> None:
    async with open_control_store(settings) as control, control.transaction() as session:
        await _note(session, InstallAct.RECONCILE, install_id, reason)
        await queue_provisioning(session, install_id, now=utc_now())


async def _keep(settings: Settings, install_id: str, reason: str | None) -> None:
    async with open_control_store(settings) as control, control.transaction() as session:
        await _note(session, InstallAct.KEEP, install_id, reason)
        await keep(session, install_id, actor="cli", now=utc_now())


async def _reconcile_all(settings: Settings, reason: str | None) -> int:
    async with open_control_store(settings) as control, control.transaction() as session:
        now = utc_now()
        await note(session, Act.RECONCILE, "all", actor="cli", reason=reason, now=now)
        return await queue_checks(session, await stored_installs.watched(session), now=now)


async def _refresh(settings: Settings, install_id: str, reason: str | None) -> None:
    async with open_stores(settings) as stores, segment_of(settings, stores) as segment:
        if segment is None:
            stop(["no Segment App is configured"])
        async with stores.control.transaction() as session:
            await _note(session, InstallAct.REFRESH, install_id, reason)
        try:
            await segment.tokens.renew(install_id)
        except (ActRefused, AccessLost, SegmentError) as problem:
            stop([f"no fresh token: {problem}"], FAILED)


async def _with_provisioner(
    settings: Settings, install_id: str, act: InstallAct, reason: str | None, *, delete: bool = False
) -> None:
    async with open_stores(settings) as stores, segment_of(settings, stores) as segment:
        if segment is None:
            stop(["no Segment App is configured"])
        async with stores.control.transaction() as session:
            await _note(session, act, install_id, reason)
        try:
            if act is InstallAct.ROTATE_KEY:
                await segment.provisioner.rotate_key(install_id, actor="cli")
            else:
                await segment.provisioner.disconnect(install_id, delete=delete, actor="cli")
        except ActRefused as refused:
            stop([f"{install_id}: {refused}"], FAILED)
