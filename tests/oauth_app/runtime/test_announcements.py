"""In the running service: on_install functions that hang or end everything hold up nothing that is done at Segment."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pydantic import SecretStr
from sqlmodel import select

from enable_with_segment import Subscription
from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import outbox
from enable_with_segment.db.control.tables import InstallStatus, OutboxEntry
from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.installs.connection_state import ANNOUNCE
from enable_with_segment.installs.record import PROVISION
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.oauth_app.runtime.wiring import run_service
from tests.rows import an_install

crm = Subscription("acme-crm")


@crm.on_install()
async def hang() -> None:
    """Never end by itself."""
    await asyncio.Event().wait()


@crm.on_install()
async def leave() -> None:
    """What a command line tool does that is called as a function."""
    sys.exit(1)


async def test_functions_that_hang_or_exit_stop_neither_provisioning_nor_the_service(tmp_path: Path) -> None:
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        database_url=f"sqlite+aiosqlite:///{tmp_path}/control.db",
        encryption_keys=SecretStr(generate_encryption_key()),
        handlers="tests.oauth_app.runtime.test_announcements:crm",
        handler_seconds=0.5,
        segment_client_id="c",
        segment_client_secret=SecretStr("s"),
        segment_destination="acme-crm",
        segment_identity_url="http://127.0.0.1:9",
        segment_config_api_url="http://127.0.0.1:9/v1beta",
    )
    now = utc_now()
    async with open_stores(settings) as stores, stores.control.transaction() as session:
        session.add(an_install("ins_1", now=now, account="acct_1", status=InstallStatus.PROVISIONING))
        for _ in range(9):
            await outbox.add(session, ANNOUNCE, "ins_1", now=now, payload={"change": "connected"})
        await outbox.add(session, PROVISION, "ins_1", now=now, payload={"overwrite": False})
    async with run_service(settings) as service:
        while True:
            async with service.services.database.transaction() as session:
                entries = (await session.exec(select(OutboxEntry))).all()
            provisioned = [entry for entry in entries if entry.kind == PROVISION and entry.finished_at]
            failed = {entry.last_error for entry in entries if entry.last_error}
            if provisioned and len(failed) == 2:
                break
            await asyncio.sleep(0.05)
        assert service.services.background.troubles == {}
    assert failed == {
        "PartnerFunctionFailed: the on_install function 'hang' took longer than 0.5 s",
        "PartnerFunctionFailed: the on_install function 'leave' raised SystemExit",
    }
