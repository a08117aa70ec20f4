"""``audit`` and ``dashboard-link``: who did what, and the way into the dashboard on your own machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from enable_with_segment.db.control import audit as stored_audit
from enable_with_segment.db.control.tables import AuditEntry
from enable_with_segment.oauth_app.cli.output import AsJson, err, print_json, print_table, run, settings_or_exit, stop
from enable_with_segment.oauth_app.runtime.factories import sign_in_links_of
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_stores

audit = typer.Typer(help="Who did what, and when.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group and the command."""
    app.add_typer(audit, name="audit")
    app.command("dashboard-link")(dashboard_link)


@audit.command("list")
def list_entries(
    action: Annotated[str | None, typer.Option(help="Only this action, such as api_key.revoke.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only about this install, key or token.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The most entries to show.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List entries of the audit, the newest first.

    Example: enable-with-segment audit list --action install.disconnect --json
    """
    found = run(_entries(settings_or_exit(), action, subject, limit))
    if as_json:
        print_json([_described(entry) for entry in found])
        return
    print_table(
        ["at", "actor", "action", "subject", "reason"],
        [(e.at, e.actor, e.action, e.subject, e.reason) for e in found],
        empty="No entry matches.",
    )


def dashboard_link() -> None:
    """Make a link that signs you in to the dashboard once; only where BASE_URL is on this machine.

    Anywhere else operators sign in with your identity provider: see OIDC_ISSUER.

    Example: enable-with-segment dashboard-link
    """
    settings = settings_or_exit()
    if not settings.on_loopback:
        stop(["BASE_URL is not on this machine, so operators sign in with your identity provider: set OIDC_ISSUER"])
    typer.echo(run(_link(settings)))
    err.print("Works once, within 15 minutes.")


def _described(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": entry.at,
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "reason": entry.reason,
        "detail": entry.detail,
    }


async def _entries(settings: Settings, action: str | None, subject: str | None, limit: int) -> list[AuditEntry]:
    async with open_stores(settings) as stores, stores.control.transaction() as session:
        return await stored_audit.list_newest(session, action=action, subject=subject, limit=limit)


async def _link(settings: Settings) -> str:
    async with open_stores(settings) as stores:
        links = sign_in_links_of(settings, stores)
        assert links is not None  # noqa: S101 - the caller has looked at BASE_URL
        return await links.mint()
