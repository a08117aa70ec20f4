"""Checks of both stores: do they answer, is their schema current, do they keep what they acknowledge, is there room."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from enable_with_segment.db.control.key_status import KeyStatus, key_status
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import EventLogUnavailable
from enable_with_segment.db.revision import Store, is_current
from enable_with_segment.db.store_url import StoreUrl
from enable_with_segment.oauth_app.doctor.finding import Finding, failure, ok, warning
from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
from enable_with_segment.oauth_app.runtime.key_provider import encryption_keys
from enable_with_segment.oauth_app.runtime.settings import Settings

_SETTINGS: dict[Store, str] = {"control": "DATABASE_URL", "event_log": "EVENT_LOG_URL"}
_NAMES: dict[Store, str] = {"control": "control store", "event_log": "event log"}
_MIGRATE = "Run: enable-with-segment migrate"
_LITTLE_SPACE = 1024**3
_NO_SPACE = 100 * 1024**2
_UNSAFE_POSTGRESQL = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
}


async def check_stores(settings: Settings) -> AsyncIterator[Finding]:
    """Look into the control store, with the keys it needs, and into the event log. Nothing is written or made."""
    keys = None
    try:
        keys = await encryption_keys(settings)
    except SettingsInvalid as problem:
        yield failure("encryption-keys", problem.problems[0], "Start with keys that can be used; then run this again.")
    urls: dict[Store, str] = {"control": settings.database_url, "event_log": settings.effective_event_log_url}
    for store, url in urls.items():
        async for finding in _check_store(store, url, keys if store == "control" else None):
            yield finding
    size = await _event_log_size(settings.effective_event_log_url)
    if size is not None:
        yield judge_size(size, settings.retention_gib)
    for finding in check_disks([url for url in urls.values() if StoreUrl.parse(url).path is not None]):
        yield finding


async def _check_store(store: Store, url: str, keys: EncryptionKeys | None) -> AsyncIterator[Finding]:
    name, check = _NAMES[store], _NAMES[store].replace(" ", "-")
    file = StoreUrl.parse(url).path
    if file is not None and not file.exists():
        yield warning(check, f"The {name} does not exist yet.", "It is made when the service starts.")
        return
    if file is not None and store == "event_log":
        yield await _check_event_log_files(url)
        return
    database = Database.open(url)
    try:
        if await is_current(database, store):
            yield ok(check, f"The {name} answers and has the newest schema.")
        else:
            yield failure(check, f"The {name} is not at the newest schema.", _MIGRATE)
            keys = None
        if store == "event_log":
            yield await check_partition_rights(database)
        yield await check_durability(database, store)
        if keys is not None:
            yield judge_keys(await key_status(database, keys))
    except (SQLAlchemyError, asyncpg.PostgresError, OSError) as problem:
        cause = getattr(problem, "orig", None) or problem
        yield failure(
            check,
            f"The {name} does not answer ({type(cause).__name__}).",
            f"Check {_SETTINGS[store]}, and that the database runs and lets this machine in.",
        )
    finally:
        await database.close()


async def _check_event_log_files(url: str) -> Finding:
    """Let the log look at its own files: they belong to its own SQLite, and it syncs every commit by construction."""
    event_log = open_event_log(url)
    try:
        await event_log.check()
    except EventLogUnavailable as problem:
        return failure("event-log", f"The event log does not answer: {problem}.", "Check EVENT_LOG_URL.")
    finally:
        await event_log.close()
    return ok("event-log", "The event log answers, and syncs every commit.")


async def _event_log_size(url: str) -> int | None:
    """Ask the log how large it is; ``None`` when it isn't there or does not answer, which is said elsewhere."""
    file = StoreUrl.parse(url).path
    if file is not None and not file.exists():
        return None
    event_log = open_event_log(url)
    try:
        return await event_log.size()
    except EventLogUnavailable:
        return None
    finally:
        await event_log.close()


def judge_size(size: int, limit_gib: float | None) -> Finding:
    """Judge what the event log takes against what it may take."""
    message = f"The event log takes {size / 1024**3:.2f} GiB"
    if limit_gib is None:
        return ok("event-log-size", f"{message}; only RETENTION_DAYS bounds it.")
    message = f"{message} of {limit_gib:g} GiB (RETENTION_GIB)."
    if size <= limit_gib * 1024**3:
        return ok("event-log-size", message)
    step = "Handle or give up what is pending: it is never dropped. Or raise RETENTION_GIB."
    return warning("event-log-size", message, step)


def judge_keys(status: KeyStatus) -> Finding:
    """The configured keys open what is stored, and none of them is left over."""
    if not status.healthy:
        return failure("encryption-keys", f"{status.setting} does not open everything stored.", status.next_step())
    if len(status.configured) > 1:
        return warning("encryption-keys", f"{status.setting} holds {len(status.configured)} keys.", status.next_step())
    return ok("encryption-keys", f"{status.setting} opens what is stored.")


async def check_durability(database: Database, store: Store) -> Finding:
    """An answer of "stored" survives a power cut (contract 5.6: what was acknowledged is never sent again)."""
    name = _NAMES[store]
    async with database.engine.connect() as connection:
        if database.dialect == "sqlite":
            synchronous = int(await connection.scalar(text("PRAGMA synchronous")) or 0)
            journal = str(await connection.scalar(text("PRAGMA journal_mode")))
            if synchronous >= 2:
                return ok("durability", f"The {name} syncs every commit (journal_mode={journal}).")
            return failure("durability", f"The {name} does not sync its commits.", "Set synchronous=FULL.")
        found = {name: str(await connection.scalar(text(f"SHOW {name}"))) for name in _UNSAFE_POSTGRESQL}
    return judge_postgresql(name, found)


async def check_partition_rights(database: Database) -> Finding:
    """The event log makes and drops its own partitions, which takes the rights of their owner."""
    statement = (
        "SELECT pg_has_role(relowner, 'USAGE') AND has_schema_privilege(relnamespace, 'CREATE')"
        " FROM pg_class WHERE oid = to_regclass('events')"
    )
    async with database.engine.connect() as connection:
        if await connection.scalar(text(statement)) is not False:
            return ok("event-log-partitions", "The event log may make its partitions.")
    return failure(
        "event-log-partitions",
        "The event log may not make its partitions: it will run out of room for events.",
        "Let the service connect as the role that ran `migrate`, or as a member of it.",
    )


def judge_postgresql(name: str, found: dict[str, str]) -> Finding:
    """Judge the settings of a PostgreSQL server that decide whether a commit is on its disk."""
    unsafe = [setting for setting, value in _UNSAFE_POSTGRESQL.items() if found[setting] == value]
    if not unsafe:
        return ok("durability", f"PostgreSQL syncs every commit of the {name}.")
    return failure(
        "durability",
        f"PostgreSQL may lose acknowledged commits of the {name}: {', '.join(unsafe)} off.",
        f"Switch on in postgresql.conf: {', '.join(unsafe)}.",
    )


def check_disks(urls: list[str]) -> Iterator[Finding]:
    """There is room where the embedded stores grow."""
    folders = {_existing(file.parent) for url in urls if (file := StoreUrl.parse(url).path) is not None}
    for folder in sorted(folders):
        yield judge_space(str(folder), shutil.disk_usage(folder).free)


def judge_space(folder: str, free: int) -> Finding:
    """Judge the free bytes of a folder."""
    message = f"{free / 1024**3:.1f} GiB are free in {folder}."
    if free >= _LITTLE_SPACE:
        return ok("disk", message)
    judge = failure if free < _NO_SPACE else warning
    return judge("disk", message, "Make room: on a full disk every delivery is answered 503.")


def _existing(folder: Path) -> Path:
    resolved = folder.resolve()
    return next(candidate for candidate in (resolved, *resolved.parents) if candidate.exists())
