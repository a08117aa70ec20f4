"""Readiness: stores, disk, backlog."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.event_log.records import Backlog
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.observability.exposition import render
from enable_with_segment.oauth_app.observability.readiness import Readiness, has_room
from enable_with_segment.oauth_app.runtime.background import BackgroundJob, BackgroundJobs
from tests.oauth_app.conftest import SERVICE, FrontDoor, build_front_door
from tests.oauth_app.operations import Operations, running_service


def test_room_is_asked_for_where_embedded_stores_grow(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/events.db"
    assert has_room([url], least_free=1)
    assert not has_room([url], least_free=2**63)
    assert has_room(["postgresql+asyncpg://u@h/n"], least_free=2**63)
    assert has_room([f"sqlite+aiosqlite:///{tmp_path}/not/there/yet.db"], least_free=2**63)


def test_a_backlog_is_told_and_stops_nobody() -> None:
    now = utc_now()
    behind = Readiness({"event_log": True}, Backlog(9, 1, now - timedelta(seconds=90)))
    assert behind.ready
    assert behind.as_json(now)["backlog"] == {"pending": 9, "oldest_seconds": 90}
    away = Readiness({"event_log": False, "disk": True}, None)
    assert away.as_json(now) == {"ready": False, "checks": {"event_log": False, "disk": True}}


async def test_what_does_not_answer_is_named(postgresql_url: str, encryption: EncryptionKeys) -> None:
    database = Database.open(postgresql_url)
    front_door = build_front_door(database, encryption, b"a secret for links")
    transport = httpx.ASGITransport(front_door.app)
    async with (
        front_door.app.router.lifespan_context(front_door.app),
        httpx.AsyncClient(transport=transport, base_url=SERVICE) as http,
    ):
        fine = await http.get("/readyz")
        assert fine.status_code == 200
        assert fine.json()["checks"] == {"control_store": True, "event_log": True, "disk": True, "background": True}
        assert fine.json()["backlog"] == {"pending": 0, "oldest_seconds": 0}
        async with front_door.database.engine.begin() as connection:
            await connection.exec_driver_sql("ALTER TABLE events RENAME TO elsewhere")
        broken = await http.get("/readyz")
        assert broken.status_code == 503
        assert broken.json()["checks"]["event_log"] is False
        assert "backlog" not in broken.json()
    await database.close()


async def test_only_the_process_that_may_write_to_an_sqlite_log_is_ready(tmp_path: Path) -> None:
    writer = SqliteEventLog(tmp_path / "events.db")
    await writer.become_writer()
    async with running_service(tmp_path, event_log_url=f"sqlite+aiosqlite:///{tmp_path}/events.db") as service:
        for _ in range(2):
            refused = await service.http.get(f"{SERVICE}/readyz")
            assert refused.status_code == 503
            assert refused.json() == {
                "ready": False,
                "checks": {"control_store": True, "event_log": False, "disk": True, "background": True},
                "reasons": {"event_log": "another process writes to this event log"},
                "backlog": refused.json()["backlog"],
            }
            assert 'store_up{store="event_log"} 0' in await _measured(service)
        await writer.close()
        ready = await service.http.get(f"{SERVICE}/readyz")
        assert (ready.status_code, "reasons" in ready.json()) == (200, False)
        assert 'store_up{store="event_log"} 1' in await _measured(service)


async def _measured(service: Operations) -> str:
    return render(await service.services.store_metrics.families())


async def test_a_background_job_that_does_not_run_is_named(front_door: FrontDoor) -> None:
    waiting, release = asyncio.Event(), asyncio.Event()

    async def ends() -> None:
        raise GeneratorExit

    async def sleep(_seconds: float) -> None:
        waiting.set()
        await release.wait()

    jobs = BackgroundJobs([BackgroundJob("outbox", ends)], sleep=sleep)
    front_door.app.state.services = replace(front_door.services, background=jobs)
    async with front_door.client() as http, jobs.running():
        await waiting.wait()
        broken = await http.get(f"{SERVICE}/readyz")
    assert broken.status_code == 503
    assert broken.json()["checks"]["background"] is False
    assert broken.json()["reasons"] == {"background": "outbox failed (GeneratorExit)"}
