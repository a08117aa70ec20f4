"""A running service says which encryption keys it knows, and a rotation waits for it."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import heartbeats as running_processes
from enable_with_segment.db.control.tables import RunningProcess
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.oauth_app.cli import app
from enable_with_segment.oauth_app.runtime.heartbeat import Heartbeat
from enable_with_segment.oauth_app.runtime.settings import Settings, load_settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from tests.oauth_app.operations import running_service

OLD, NEW = generate_encryption_key(), generate_encryption_key()
OLD_ID, NEW_ID = (key.partition(":")[0] for key in (OLD, NEW))


async def _live(database: Database, now: datetime | None = None) -> list[RunningProcess]:
    async with database.transaction() as session:
        return list(await running_processes.live(session, now=now or utc_now()))


async def test_a_service_says_what_it_knows_while_it_runs(tmp_path: Path) -> None:
    async with running_service(tmp_path, encryption_keys=f"{OLD},{NEW}") as service:
        (process,) = await _live(service.services.database)
        assert process.key_ids == [OLD_ID, NEW_ID]
        assert process.name.endswith(f":{os.getpid()}")
        assert process.name.startswith("web ")
    database = Database.open(f"sqlite+aiosqlite:///{tmp_path}/control.db")
    assert await _live(database) == []
    await database.close()


async def test_it_says_so_again_and_again_also_after_the_store_was_away(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    started, slept = utc_now(), 0
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        nonlocal slept
        slept += 1
        name = {2: "running_processes RENAME TO elsewhere", 3: "elsewhere RENAME TO running_processes"}.get(slept)
        if name is not None:
            async with database.engine.begin() as connection:
                await connection.exec_driver_sql(f"ALTER TABLE {name}")
        if slept == 4:
            enough.set()
            await asyncio.Event().wait()

    def clock() -> datetime:
        return started + timedelta(seconds=15 * slept)

    presence = Heartbeat(database, "host:1:a", role="worker", key_ids=["k"], clock=clock, sleep=sleep)
    await presence.announce()
    running = asyncio.create_task(presence.run())
    await enough.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    (process,) = await _live(database, clock())
    assert (process.name, process.seen_at) == ("worker host:1", started + timedelta(seconds=45))
    assert caplog.text.count("could not write down that this process runs") == 1
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql("DROP TABLE running_processes")
    await presence.leave()
    assert "could not write down that this process ends" in caplog.text


@pytest.fixture
def deployment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str) -> pytest.MonkeyPatch:
    """Stores that were written with the old key, on both engines."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("ENCRYPTION_KEYS", OLD)
    _in_stores()
    return monkeypatch


def _in_stores(*processes: tuple[str, list[str]], seconds_ago: float = 0) -> None:
    """Open the stores, as a starting process does, and let processes say what they know."""

    async def work() -> None:
        async with open_stores(load_settings()) as stores, stores.control.transaction() as session:
            now = utc_now() - timedelta(seconds=seconds_ago)
            for name, key_ids in processes:
                await running_processes.note(session, name, role="web", key_ids=key_ids, started_at=now, now=now)

    asyncio.run(work())


def _command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["encryption-keys", *arguments])


def _status() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(_command("status", "--json").stdout)
    return told


def test_tk_05_a_rotation_waits_for_every_running_process(deployment: pytest.MonkeyPatch) -> None:
    _in_stores(("a:1:x", [OLD_ID]), ("b:2:y", [OLD_ID]))
    deployment.setenv("ENCRYPTION_KEYS", f"{OLD},{NEW}")
    refused = _command("rotate", "--stage", "use")
    assert refused.exit_code == 1
    assert f"do not know the key '{NEW_ID}' yet: web a:1, web b:2" in refused.stderr.replace("\n", " ")
    assert NEW not in refused.output
    assert "2 do not know it yet" in _status()["next"]
    assert "web a:1" in _command("status").stdout

    _in_stores(("a:1:x", [OLD_ID, NEW_ID]), ("b:2:y", [OLD_ID, NEW_ID]))
    assert "--stage use" in _status()["next"]
    used = _command("rotate", "--stage", "use")
    assert used.stdout.strip() == f"{NEW},{OLD}"

    deployment.setenv("ENCRYPTION_KEYS", used.stdout.strip())
    _in_stores(("a:1:x", [NEW_ID, OLD_ID]))
    assert _command("reencrypt", "--verify").exit_code == 0
    refused = _command("rotate", "--stage", "retire")
    assert refused.exit_code == 1
    assert f"still encrypt with another key than '{NEW_ID}': web b:2" in refused.stderr.replace("\n", " ")
    _in_stores(("b:2:y", [NEW_ID]))
    assert _command("rotate", "--stage", "retire").stdout.strip() == NEW


def test_tk_05_reencrypt_changes_nothing_that_a_running_process_could_not_open(
    deployment: pytest.MonkeyPatch,
) -> None:
    deployment.setenv("ENCRYPTION_KEYS", f"{NEW},{OLD}")
    _in_stores(*((f"host:{number}:x", [OLD_ID]) for number in range(12)))
    refused = _command("reencrypt")
    assert refused.exit_code == 1
    assert "and 2 more" in refused.stderr
    assert {use["key_id"] for use in _status()["in_use"]} == {OLD_ID}


def test_a_process_that_was_killed_holds_nothing_up_for_good(deployment: pytest.MonkeyPatch) -> None:
    deployment.setenv("ENCRYPTION_KEYS", f"{OLD},{NEW}")
    _in_stores(("a:1:x", [OLD_ID]), seconds_ago=61)
    assert _status()["processes"] == []
    assert _command("rotate", "--stage", "use").exit_code == 0
