"""Commands that read open what they need: no key, no migration, no write, nothing made, and few modules imported."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
from typer.testing import CliRunner, Result

from enable_with_segment.db.event_log.opening import open_event_log
from enable_with_segment.db.event_log.records import EventFilter, EventLogUnavailable
from enable_with_segment.db.event_log.sqlite import SqliteEventLog
from enable_with_segment.oauth_app.cli import app, events
from enable_with_segment.oauth_app.cli.output import say
from enable_with_segment.oauth_app.runtime.settings import Settings
from tests.db.event_log.events import new_event

OF_EVENTS = [
    "events list",
    "events list --json",
    "events show m-1",
    "events prove ids.txt",
    "dead-letters list",
    "dead-letters groups",
]
OF_THE_CONTROL_STORE = [
    "installs list",
    "installs show ins_0a1b2c",
    "api-keys list",
    "api-tokens list",
    "audit list",
    "accounts suspend acme",
    "panic",
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without a setting."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path


def run(line: str) -> Result:
    return CliRunner().invoke(app, line.split())


@contextmanager
def open_log(*ids: str) -> Iterator[None]:
    """Keep a log open, as a service does, with some events in it."""
    loop = asyncio.new_event_loop()
    log = SqliteEventLog(Path("data/events.db"))

    async def fill() -> None:
        await asyncio.gather(*(log.append(new_event(message_id)) for message_id in ids))

    try:
        loop.run_until_complete(fill())
        yield
    finally:
        loop.run_until_complete(log.close())
        loop.close()


def on_the_disk(folder: Path) -> dict[str, str]:
    """The files of a folder with their content; what SQLite keeps in shared memory is none of a reader's writing."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("line", [*OF_EVENTS, *OF_THE_CONTROL_STORE])
def test_where_there_is_no_store_a_reader_names_it_and_makes_none(line: str, folder: Path) -> None:
    ids = folder / "ids.txt"
    ids.write_text("m-1\n", encoding="utf-8")
    done = run(line)
    assert done.exit_code == 2
    name = "control.db" if line in OF_THE_CONTROL_STORE else "events.db"
    assert str(folder / "data" / name) in done.stderr
    assert list(folder.iterdir()) == [ids]


@pytest.mark.parametrize("line", OF_EVENTS)
def test_events_are_read_without_keys_and_nothing_is_written(line: str, folder: Path) -> None:
    (folder / "ids.txt").write_text("m-1\n", encoding="utf-8")
    with open_log("m-1"):
        pass
    before = on_the_disk(folder)
    files = set(folder.rglob("*"))
    closed = run(line)
    assert closed.exit_code == (1 if "prove" in line else 0), closed.output  # it is there, and not handled
    assert on_the_disk(folder) == before
    assert set(folder.rglob("*")) == files, "nothing was made"
    with open_log("m-2"):
        before = on_the_disk(folder)
        beside = run(line)
        assert beside.exit_code == closed.exit_code, beside.output
        assert on_the_disk(folder) == before


def test_events_that_are_not_checkpointed_yet_are_seen(folder: Path) -> None:
    with open_log("m-1", "m-2"):
        assert (folder / "data" / "events.db.000000000000001-wal").stat().st_size > 0
        found = json.loads(run("events list --json").stdout)
    assert [event["message_id"] for event in found] == ["m-2", "m-1"]


def test_a_log_of_another_schema_is_left_as_it_is_until_it_is_migrated(folder: Path) -> None:
    with open_log("m-1"):
        pass
    segment = folder / "data" / "events.db.000000000000001"
    connection = apsw.Connection(str(segment))
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    refused = run("events list")
    assert refused.exit_code == 2
    assert f"{segment.name} is not at the newest schema; run: enable-with-segment migrate" in refused.stderr
    assert run("migrate").exit_code == 0
    assert run("events list").exit_code == 0


def test_a_reader_imports_the_event_log_alone(folder: Path) -> None:
    (folder / "ids.txt").write_text("m-1\n", encoding="utf-8")
    with open_log("m-1"):
        pass
    program = (
        "import sys\n"
        "from enable_with_segment.oauth_app.cli import app\n"
        f"for line in {OF_EVENTS!r}:\n"
        "    try: app(line.split())\n"
        "    except SystemExit: pass\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    imported = done.stderr.split()
    assert {"starlette", "authlib", "httpx", "uvicorn", "sqlalchemy", "pydantic_settings"}.isdisjoint(imported)
    own = [name for name in imported if name.startswith("enable_with_segment.")]
    assert len(own) < 80, "it was 158"


async def test_a_tail_follows_a_log_that_is_opened_after_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events, "_POLL_SECONDS", 0.01)
    log = SqliteEventLog(folder / "data" / "events.db")
    await log.append(new_event("before"))
    await log.close()
    following = asyncio.create_task(events._tail(as_json=True))
    await asyncio.sleep(0.05)
    await log.append(new_event("after"))
    said = ""
    while '"after"' not in said:
        await asyncio.sleep(0.01)
        said += capsys.readouterr().out
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await log.close()
    assert '"before"' not in said


async def test_postgresql_refuses_a_reader_that_writes(postgresql_url: str) -> None:
    log = open_event_log(postgresql_url, read_only=True)
    await log.check()
    assert await log.find(EventFilter()) == []
    with pytest.raises(EventLogUnavailable):
        await log.append(new_event())
    await log.close()


def test_the_version_is_printed() -> None:
    done = run("--version")
    assert done.exit_code == 0
    assert done.stdout.startswith("enable-with-segment 0.")


def test_control_characters_of_stored_text_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("missing: a\x1b[2Jb\nnext")
    assert capsys.readouterr().out == "missing: a�[2Jb\nnext\n"
