"""``api-tokens``: what your own backend authenticates with at the HTTP API."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from enable_with_segment.db.control.tables import ApiToken
from enable_with_segment.oauth_app.cli.output import (
    AsJson,
    Reason,
    err,
    out,
    print_json,
    print_table,
    run,
    settings_or_exit,
    stop,
)
from enable_with_segment.oauth_app.operators.api_tokens import ApiTokens, MintedToken, Scope
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_stores

group = typer.Typer(help="Tokens for your backend to use the HTTP API.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="api-tokens")


@group.command()
def create(
    name: Annotated[str, typer.Option(help="What the token is for.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; repeat for more.")],
    days: Annotated[int, typer.Option(min=0, help="How many days it works; 0 for until it is revoked.")] = 365,
    as_json: AsJson = False,
) -> None:
    """Make a token for the HTTP API. It is shown only now.

    Example: enable-with-segment api-tokens create --name backend --scope connect_links:write --scope installs:read
    """
    minted = run(_create(settings_or_exit(), name, scope, timedelta(days=days) if days else None))
    if as_json:
        print_json({"id": minted.id, "token": minted.token, "name": name, "scopes": sorted(set(scope))})
        return
    typer.echo(minted.token)
    err.print(f"{minted.id}. Copy it now: it is not shown again.")


@group.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """List tokens, the newest first, without the tokens themselves.

    Example: enable-with-segment api-tokens list
    """
    found = run(_list(settings_or_exit()))
    if as_json:
        print_json([_described(token) for token in found])
        return
    print_table(
        ["id", "name", "scopes", "created", "expires", "revoked"],
        [(t.id, t.name, ", ".join(t.scopes), t.created_at, t.expires_at, t.revoked_at) for t in found],
        empty="There are no API tokens yet. Make one with: enable-with-segment api-tokens create",
    )


@group.command()
def revoke(
    token_id: Annotated[str, typer.Argument(help="The token's id, from: api-tokens list")], reason: Reason = None
) -> None:
    """Revoke a token at once.

    Example: enable-with-segment api-tokens revoke tok_0a1b2c
    """
    if not run(_revoke(settings_or_exit(), token_id, reason)):
        stop([f"there is no usable token {token_id}"], 1)
    out.print(f"{token_id} is revoked.")


def _described(token: ApiToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "scopes": token.scopes,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
    }


async def _create(settings: Settings, name: str, scopes: list[Scope], lifetime: timedelta | None) -> MintedToken:
    async with open_stores(settings) as stores:
        return await ApiTokens(stores.control).mint(name, set(scopes), lifetime=lifetime, actor="cli")


async def _list(settings: Settings) -> list[ApiToken]:
    async with open_stores(settings) as stores:
        return await ApiTokens(stores.control).list_all()


async def _revoke(settings: Settings, token_id: str, reason: str | None) -> bool:
    async with open_stores(settings) as stores:
        return await ApiTokens(stores.control).revoke(token_id, actor="cli", reason=reason)
