"""``HANDLER_SECONDS`` and ``CALLS_PER_HANDLER`` reach the handlers of the running service."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import SecretStr

from enable_with_segment import Event, Subscription
from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.db.event_log.records import EventFilter
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.oauth_app.runtime.wiring import run_service
from tests.db.event_log.events import new_event

hanging = Subscription("acme-crm")
running: list[int] = [0]


@hanging.on("track")
async def hang(event: Event) -> None:
    """Never end by itself, and note how many calls there are."""
    running.append(running[-1] + 1)
    try:
        await asyncio.Event().wait()
    finally:
        running.append(running[-1] - 1)


async def test_calls_are_cut_off_after_the_time_and_run_beside_as_many_as_the_settings_say(tmp_path: Path) -> None:
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        database_url=f"sqlite+aiosqlite:///{tmp_path}/control.db",
        encryption_keys=SecretStr(generate_encryption_key()),
        handlers="tests.oauth_app.runtime.test_handler_limits:hanging",
        handler_seconds=0.05,
        calls_per_handler=2,
    )
    body = b'{"type":"track","event":"Step","userId":"u-1"}'
    event = new_event(type="track", body=body, install_id=None)
    async with open_stores(settings) as stores:
        for number in range(4):  # one sender alone never has all calls
            await stores.event_log.append(event._replace(scope=f"key:{number}"))
    async with run_service(settings) as service:
        log = service.services.event_log
        while not all(record.attempts for record in await log.find(EventFilter())):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        records = await log.find(EventFilter())
    assert [record.last_error for record in records] == ["hang (track): it took too long"] * 4
    assert max(running) == 2
