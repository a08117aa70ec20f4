"""``encryption-keys``: the keys that stored secrets are encrypted with."""

from __future__ import annotations

import typer

from db.encryption import generate_encryption_key

group = typer.Typer(help="Keys for stored secrets.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="encryption-keys")


@group.callback()
def _group() -> None:
    """Keys for stored secrets (ENCRYPTION_KEYS)."""


@group.command()
def generate() -> None:
    """Print a new key for ENCRYPTION_KEYS.

    Example: export ENCRYPTION_KEYS="$(enable-with-segment encryption-keys generate)"
    """
    typer.echo(generate_encryption_key())
