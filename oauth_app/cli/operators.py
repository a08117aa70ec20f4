"""``audit``, ``dashboard-link`` and ``api-tokens``: what operators did, and what gives access to the service."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from enable_with_segment.db.control import audit as stored_audit
from enable_with_segment.db.control.tables import ApiToken, AuditEntry
from enable_with_segment.oauth_app.cli.output import (
    AsJson,
    Reason,
    print_json,
    print_table,
    run,
    say,
    settings_or_exit,
    stop,
)
from enable_with_segment.oauth_app.operators.api_tokens import ApiTokens, MintedToken, Scope
from enable_with_segment.oauth_app.runtime.factories import sign_in_links_of
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_control_store


def list_audit(
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
    say("Works once, within 15 minutes.", error=True)


def create_token(
    name: Annotated[str, typer.Option(help="What the token is for.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; repeat for more.")],
    days: Annotated[int, typer.Option(min=0, help="How many days it works; 0 for until it is revoked.")] = 365,
    as_json: AsJson = False,
) -> None:
    """Make a token for the HTTP API. It is shown only now.

    Example: enable-with-segment api-tokens create --name backend --scope connect_links:write --scope installs:read
    """
    minted = run(_create_token(settings_or_exit(), name, scope, timedelta(days=days) if days else None))
    if as_json:
        print_json({"id": minted.id, "token": minted.token, "name": name, "scopes": sorted(set(scope))})
        return
    typer.echo(minted.token)
    say(f"{minted.id}. Copy it now: it is not shown again.", error=True)


def list_tokens(as_json: AsJson = False) -> None:
    """List tokens, the newest first. The tokens themselves are not shown.

    Example: enable-with-segment api-tokens list
    """
    found = run(_list_tokens(settings_or_exit()))
    if as_json:
        print_json([_described_token(token) for token in found])
        return
    print_table(
        ["id", "name", "scopes", "created", "expires", "revoked"],
        [(t.id, t.name, ", ".join(t.scopes), t.created_at, t.expires_at, t.revoked_at) for t in found],
        empty="There are no API tokens yet. Make one with: enable-with-segment api-tokens create",
    )


def revoke_token(
    token_id: Annotated[str, typer.Argument(help="The token's id, from: api-tokens list")], reason: Reason = None
) -> None:
    """Revoke a token at once.

    Example: enable-with-segment api-tokens revoke tok_0a1b2c
    """
    if not run(_revoke_token(settings_or_exit(), token_id, reason)):
        stop([f"there is no usable token {token_id}"], 1)
    say(f"{token_id} is revoked.")


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
    async with open_control_store(settings) as control, control.transaction() as session:
        return await stored_audit.list_newest(session, action=action, subject=subject, limit=limit)


async def _link(settings: Settings) -> str:
    async with open_control_store(settings) as control:
        links = sign_in_links_of(settings, control)
        assert links is not None  # noqa: S101 - the caller has looked at BASE_URL
        return await links.mint()


def _described_token(token: ApiToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "scopes": token.scopes,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
    }


async def _create_token(settings: Settings, name: str, scopes: list[Scope], lifetime: timedelta | None) -> MintedToken:
    async with open_control_store(settings) as control:
        return await ApiTokens(control).mint(name, set(scopes), lifetime=lifetime, actor="cli")


async def _list_tokens(settings: Settings) -> list[ApiToken]:
    async with open_control_store(settings) as control:
        return await ApiTokens(control).list_all()


async def _revoke_token(settings: Settings, token_id: str, reason: str | None) -> bool:
    async with open_control_store(settings) as control:
        return await ApiTokens(control).revoke(token_id, actor="cli", reason=reason)
