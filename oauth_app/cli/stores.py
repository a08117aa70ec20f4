"""``migrate``: the schema of both stores."""

from __future__ import annotations

import typer

from enable_with_segment.db.database import Database, parse_url
from enable_with_segment.db.migrate import migrate as migrate_store
from enable_with_segment.oauth_app.cli.output import out, run, settings_or_exit
from enable_with_segment.oauth_app.runtime.settings import Settings


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
    control = Database.open(settings.database_url)
    try:
        await migrate_store(control, "control")
    finally:
        await control.close()
    if parse_url(settings.effective_event_log_url).get_backend_name() == "sqlite":
        return  # an SQLite event log looks after its own files
    events = Database.open(settings.effective_event_log_url)
    try:
        await migrate_store(events, "event_log")
    finally:
        await events.close()
