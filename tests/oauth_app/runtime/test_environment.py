"""The event log's address is the one that ``Settings`` reads, whichever way the environment names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid, event_log_url
from enable_with_segment.oauth_app.runtime.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def _told(read: object) -> object:
    try:
        return read() if callable(read) else read
    except SettingsInvalid as problem:
        return problem.problems


@pytest.mark.parametrize(
    ("environment", "env_file"),
    [
        ({}, None),
        ({"DATABASE_URL": "sqlite:///x/control.db"}, None),
        ({"DATABASE_URL": "sqlite:////var/lib/x/control.db?timeout=3"}, None),
        ({"DATABASE_URL": "sqlite:///control.db"}, None),
        ({"DATABASE_URL": "sqlite://"}, None),
        ({"database_url": "sqlite:///lower.db"}, None),
        ({"DATABASE_URL": "postgres://u:p@[::1]:5432/x?sslmode=require"}, None),
        ({"DATABASE_URL": "sqlite:///x.db", "EVENT_LOG_URL": "postgresql+asyncpg://u:p@h/x"}, None),
        ({"EVENT_LOG_URL": ""}, "EVENT_LOG_URL=sqlite:///of-the-file.db\n"),
        ({"EVENT_LOG_URL": "sqlite:///won.db"}, "EVENT_LOG_URL=sqlite:///of-the-file.db\n"),
        ({}, "# a comment\nexport database_url='sqlite:///of-the-file/x.db'\n"),
        ({}, "PLACE=/srv\nDATABASE_URL=sqlite:///${PLACE}/x.db\n"),
        ({}, "DATABASE_URL=\n"),
        ({"DATABASE_URL": "mysql://root:hunter2@db/x"}, None),
        ({"DATABASE_URL": "hunter2"}, None),
        ({"DATABASE_URL": "sqlite://data/control.db"}, None),
        ({"EVENT_LOG_URL": "postgresql://u:hunter2@h:port/x", "DATABASE_URL": "oracle://x"}, None),
        ({"EVENT_LOG_URL": "postgresql://u:hunter2@one,two:5432/x"}, None),
        ({"EVENT_LOG_URL": "postgresql://u:hunter2@one:1,two:2/x"}, None),
    ],
    ids=str,
)
def test_both_readers_agree(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], env_file: str | None) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if env_file is not None:
        Path(".env").write_text(env_file, encoding="utf-8")
    read = _told(event_log_url)
    assert read == _told(lambda: load_settings().effective_event_log_url)
    if not isinstance(read, str):
        assert "hunter2" not in str(read)
