"""``migrate``: the schema of both stores."""

from __future__ import annotations

from enable_with_segment.db.database import Database
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.migrate import migrate as migrate_store
from enable_with_segment.db.store_url import StoreUrl
from enable_with_segment.oauth_app.cli.output import run, say, settings_or_exit
from enable_with_segment.oauth_app.runtime.settings import Settings


def migrate() -> None:
    """Bring both stores to the newest schema; safe to run again, and while the service runs.

    Example: DATABASE_URL=postgresql+asyncpg://user:password@host/name enable-with-segment migrate
    """
    run(_migrate(settings_or_exit()))
    say("Both stores are at the newest schema.")


async def _migrate(settings: Settings) -> None:
    control = Database.open(settings.database_url)
    try:
        await migrate_store(control, "control")
    finally:
        await control.close()
    if StoreUrl.parse(settings.effective_event_log_url).backend == "sqlite":
        log = open_event_log(settings.effective_event_log_url)
        try:
            await log.check()  # which brings its files to the newest schema
        finally:
            await log.close()
        return
    events = Database.open(settings.effective_event_log_url)
    try:
        await migrate_store(events, "event_log")
    finally:
        await events.close()
