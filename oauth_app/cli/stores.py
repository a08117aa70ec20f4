"""``migrate``: the schema of both stores."""

from __future__ import annotations

import typer

from db.migrate import migrate as migrate_store
from oauth_app.cli.output import out, run, settings_or_exit
from oauth_app.settings import Settings
from oauth_app.stores import open_databases


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(migrate)


def migrate() -> None:
    """Bring both stores to the newest schema; safe to run again, and while the service runs.

    Example: DATABASE_URL=postgresql+asyncpg://user:password@host/name enable-with-segment migrate
    """
    run(_migrate(settings_or_exit()))
    out.print("Both stores are at the newest schema.")


async def _migrate(settings: Settings) -> None:
    control, events = open_databases(settings)
    try:
        await migrate_store(control, "control")
        await migrate_store(events, "event_log")
    finally:
        await events.close()
        await control.close()
