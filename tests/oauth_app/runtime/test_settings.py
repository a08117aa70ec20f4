"""Settings are refused in words, and never repeat a secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
from enable_with_segment.oauth_app.runtime.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_defaults_are_the_safe_ones() -> None:
    settings = load_settings()
    assert settings.base_url == "http://localhost:8888"
    assert settings.redirect_uri == "http://localhost:8888/auth/segment/callback"
    assert settings.segment_identity_url == "https://id.segmentapis.com"
    assert settings.segment_config_api_url == "https://platform.segmentapis.com/v1beta"
    assert settings.encryption_keys is None
    assert settings.segment_client_secret is None
    assert settings.segment_pkce is True
    assert settings.overwrite_destination == "ask"
    assert settings.connect_link_minutes == 15
    assert (settings.handler_seconds, settings.calls_per_handler) == (30, 32)
    assert settings.oauth_enabled is False
    assert settings.effective_event_log_url == "sqlite+aiosqlite:///./data/events.db"


def test_what_stands_in_the_env_file_is_read_and_does_not_become_part_of_the_environment() -> None:
    Path(".env").write_text("PARTNER_NAME=Acme CRM\nCRM_TOKEN=of-a-handler\n", encoding="utf-8")
    before = dict(os.environ)
    assert load_settings().partner_name == "Acme CRM"
    assert dict(os.environ) == before
    assert not {"PARTNER_NAME", "CRM_TOKEN"} & before.keys()


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("BASE_URL", "segment.example.com", "absolute"),
        ("BASE_URL", "http://segment.example.com", "https"),
        ("BASE_URL", "https://user:hunter2@segment.example.com", "credentials"),
        ("BASE_URL", "https://segment.example.com:port", "cannot be read"),
        ("BASE_URL", "https://segment.example.com:99999", "cannot be read"),
        ("BASE_URL", "https://[::1", "cannot be read"),
        ("BASE_URL", "https://seg ment.example.com", "no address"),
        ("BASE_URL", "https://segment.example.com?", "query"),
        ("BASE_URL", "https://segment.example.com/a/../b", "such as /integrations/segment"),
        ("BASE_URL", "https://segment.example.com//a", "such as /integrations/segment"),
        ("BASE_URL", "https://segment.example.com/a;b", "such as /integrations/segment"),
        ("BASE_URL", "https://segment.example.com/%61", "such as /integrations/segment"),
        ("SEGMENT_IDENTITY_URL", "http://id.example.com", "https"),
        ("DATABASE_URL", "mysql://root:hunter2@db/x", "not supported"),
        ("DATABASE_URL", "hunter2", "not a URL"),
        ("HANDLERS", "examples.acme_crm", "module:attribute"),
        ("CONNECT_LINK_MINUTES", "0", "greater than"),
        ("HANDLER_SECONDS", "0", "greater than"),
        ("HANDLER_SECONDS", "nan", "less than"),
        ("HANDLER_SECONDS", "inf", "less than"),
        ("HANDLER_SECONDS", "half a minute", "number"),
        ("CALLS_PER_HANDLER", "0", "greater than"),
        ("CALLS_PER_HANDLER", "100000", "less than"),
        ("CALLS_PER_HANDLER", "2.5", "integer"),
        ("LOG_LEVEL", "LOUD", "DEBUG"),
        ("SEGMENT_CLIENT_ID", "only-this", "SEGMENT_CLIENT_SECRET"),
        ("SEGMENT_DESTINATION", "destination/acme-crm", "slug"),
        ("SEGMENT_DESTINATION", "Acme CRM", "slug"),
        ("SUPPORT_URL", "help.example.com", "mailto"),
        ("SUPPORT_URL", "javascript:alert(1)", "mailto"),
        ("PARTNER_LOGIN_URL", "//login.example.com", "absolute"),
        ("PARTNER_LOGIN_URL", "login", "absolute"),
        ("RETURN_ORIGINS", "app.example.com", "origins"),
        ("RETURN_ORIGINS", "https://app.example.com/settings", "origins"),
        ("OPERATORS", "ana@example.com, platform", "group:NAME"),
        ("VIEWERS", "support", "group:NAME"),
    ],
)
def test_a_wrong_value_is_named_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, word: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid) as refused:
        load_settings()
    told = str(refused.value)
    assert name.removeprefix("SEGMENT_CLIENT_ID") in told
    assert word in told
    assert "hunter2" not in told


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_URL", "x")
    monkeypatch.setenv("LOG_LEVEL", "x")
    with pytest.raises(SettingsInvalid) as refused:
        load_settings()
    assert len(refused.value.problems) == 2


def test_return_origins_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETURN_ORIGINS", "https://a.example, https://b.example/,")
    assert load_settings().return_origins == ("https://a.example", "https://b.example")


def test_the_event_log_shares_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://u:p@db/x")
    assert load_settings().effective_event_log_url == "postgresql+asyncpg://u:p@db/x"
    monkeypatch.setenv("EVENT_LOG_URL", "sqlite+aiosqlite:///./data/e.db")
    assert load_settings().effective_event_log_url == "sqlite+aiosqlite:///./data/e.db"


@pytest.mark.parametrize(
    ("given", "base_url", "path"),
    [
        (" HTTPS://Segment.Example.COM:443/ ", "https://segment.example.com:443", ""),
        (
            "https://example.com/Integrations/segment/",
            "https://example.com/Integrations/segment",
            "/Integrations/segment",
        ),
        ("http://LOCALHOST:8888", "http://localhost:8888", ""),
        ("http://[::1]:8888/x", "http://[::1]:8888/x", "/x"),
    ],
)
def test_the_public_address_is_kept_in_one_spelling(
    monkeypatch: pytest.MonkeyPatch, given: str, base_url: str, path: str
) -> None:
    monkeypatch.setenv("BASE_URL", given)
    settings = load_settings()
    assert (settings.base_url, settings.base_path) == (base_url, path)
    assert settings.secure_cookies == base_url.startswith("https")
    assert settings.redirect_uri == f"{base_url}/auth/segment/callback"
    assert settings.path_to("/dashboard") == f"{path}/dashboard"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SUPPORT_URL", "mailto:help@example.com"),
        ("SUPPORT_URL", "https://example.com/help"),
        ("PARTNER_LOGIN_URL", "/login?next=/auth/segment"),
        ("PARTNER_LOGIN_URL", "https://app.example.com/login"),
        ("RETURN_ORIGINS", "https://app.example.com:8443,http://localhost:3000/"),
        ("VIEWERS", "kim@example.com,group:support team"),
    ],
)
def test_what_is_right_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), name.lower())
