"""Opening both stores: schema up to date, keys that open what is stored, and the service's own secrets."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import service_secrets
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionError, EncryptionKeys
from enable_with_segment.db.event_log.log import SegmentLimits, StoredEventLog
from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import EventLogOutdated
from enable_with_segment.db.problems import SchemaOutdated, StoreMissing
from enable_with_segment.db.revision import Store, is_current
from enable_with_segment.db.store_url import StoreUrl
from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
from enable_with_segment.oauth_app.runtime.key_provider import encryption_keys
from enable_with_segment.oauth_app.runtime.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceSecrets:
    """32 bytes each, made once, stored encrypted, the same in every process."""

    api_key_lookup: bytes
    person_hash: bytes
    status_links: bytes
    operator_logins: bytes
    flow_cookies: bytes


@dataclass(frozen=True, slots=True)
class Stores:
    """Both stores, open, and what opens the secrets in them."""

    control: Database
    event_log: StoredEventLog
    encryption: EncryptionKeys
    secrets: ServiceSecrets


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Open both stores while the block lasts. SQLite is migrated here; PostgreSQL has to be migrated before.

    Raises:
        SettingsInvalid: encryption keys are missing, malformed, not to be had, or don't open what is stored.
        SchemaOutdated: a PostgreSQL store is not at the newest revision.
    """
    encryption = await encryption_keys(settings)
    control = Database.open(settings.database_url)
    event_log = open_event_log(
        settings.effective_event_log_url,
        replays=settings.replays,
        segment_limits=SegmentLimits(dedupe=timedelta(days=settings.dedupe_days)),
    )
    try:
        await _prepare(control, "control")
        try:
            await event_log.check()
        except EventLogOutdated as problem:
            raise SchemaOutdated(str(problem)) from None
        yield Stores(control, event_log, encryption, await _secrets(control, encryption))
    finally:
        await event_log.close()
        await control.close()


@asynccontextmanager
async def open_control_store(settings: Settings) -> AsyncIterator[Database]:
    """Open the control store alone and as it is: not migrated, and whatever keys it was written with.

    Raises:
        StoreMissing: there is no such SQLite file; none is made.
        SchemaOutdated: it is not at the newest revision.
    """
    path = StoreUrl.parse(settings.database_url).path
    if path is not None and not path.exists():
        raise StoreMissing.at("control store", path)
    control = Database.open(settings.database_url)
    try:
        if not await is_current(control, "control"):
            raise SchemaOutdated("the control store is not at the newest schema; run: enable-with-segment migrate")
        yield control
    finally:
        await control.close()


async def _prepare(database: Database, store: Store) -> None:
    if await is_current(database, store):
        return
    if database.dialect != "sqlite":
        raise SchemaOutdated(
            f"the {store.replace('_', ' ')} in PostgreSQL is not at the newest schema; run: enable-with-segment migrate"
        )

    from enable_with_segment.db.migrate import migrate  # noqa: PLC0415 - Alembic, for a new or an old file only

    await migrate(database, store)


async def _secrets(database: Database, encryption: EncryptionKeys) -> ServiceSecrets:
    now = utc_now()
    try:
        async with database.transaction() as session:
            return ServiceSecrets(
                api_key_lookup=await service_secrets.ensure(session, encryption, "api_key_lookup", now=now),
                person_hash=await service_secrets.ensure(session, encryption, "person_hash", now=now),
                status_links=await service_secrets.ensure(session, encryption, "status_links", now=now),
                operator_logins=await service_secrets.ensure(session, encryption, "operator_logins", now=now),
                flow_cookies=await service_secrets.ensure(session, encryption, "flow_cookies", now=now),
            )
    except EncryptionError as problem:
        raise SettingsInvalid(
            [f"{encryption.setting} does not open what is stored ({problem}). Start with the keys it was written with."]
        ) from None
