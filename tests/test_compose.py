"""What an operator sets for ``docker/compose.yaml`` reaches the service, and no secret stands in the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
from enable_with_segment.oauth_app.runtime.key_provider import encryption_keys
from enable_with_segment.oauth_app.runtime.settings import Settings

FILE = Path(__file__).parent.parent / "docker" / "compose.yaml"
SERVICES: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]
OURS = ("migrate", "web", "worker")
SETTINGS = {name.upper() for name in Settings.model_fields}
SET_BY_THE_FILE = "DATABASE_URL"
DEPLOY = FILE.parent.parent / "docs" / "deploy.md"
NEEDED = {"POSTGRES_PASSWORD": "p4ssw0rd", "HANDLERS": "acme:crm", "BASE_URL": "https://segment.acme.example"}
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])[^}]*)?\}")


def environment_of(service: str, env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a container as Compose puts it together, with ``.env`` beside the file and an empty shell.

    https://docs.docker.com/compose/how-tos/environment-variables/envvars-precedence/

    Raises:
        LookupError: Compose would stop: the file insists on a variable that is not set, or is empty.
    """

    def value_of(found: re.Match[str]) -> str:
        if found[2] == ":?" and not env.get(found[1]):
            raise LookupError(found[1])
        return env.get(found[1], "")

    described = SERVICES[service]
    from_file = env if [entry["path"] for entry in described.get("env_file", [])] == [".env"] else {}
    named = {name: _VARIABLE.sub(value_of, value) for name, value in described["environment"].items()}
    return {**from_file, **named}


@pytest.mark.parametrize("service", OURS)
def test_every_setting_reaches_the_service(service: str) -> None:
    env = {name: f"what {name} is set to" for name in SETTINGS - {SET_BY_THE_FILE}}
    environment = environment_of(service, {**NEEDED, **env})
    assert {name: environment.get(name) for name in env} == env


@pytest.mark.parametrize("service", OURS)
def test_the_store_is_the_one_of_the_file(service: str) -> None:
    environment = environment_of(service, {**NEEDED, "DATABASE_URL": "elsewhere"})
    assert environment["DATABASE_URL"] == "postgresql+asyncpg://segment:p4ssw0rd@database/segment"
    settings = Settings(_env_file=None, database_url=environment["DATABASE_URL"])  # type: ignore[call-arg]
    assert settings.database_url == environment["DATABASE_URL"]


def settings_of(service: str, env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings as a container reads them from its environment."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment_of(service, {**NEEDED, **env}).items():
        monkeypatch.setenv(name, value)
    return Settings(_env_file=None)  # type: ignore[call-arg]


@pytest.mark.parametrize("service", OURS)
async def test_keys_come_from_the_environment_or_from_a_file(
    service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = generate_encryption_key()
    file = tmp_path / "keys"
    file.write_text(key, encoding="utf-8")
    file.chmod(0o400)
    for env in ({"ENCRYPTION_KEYS": key}, {"ENCRYPTION_KEYS_FILE": str(file)}):
        keys = await encryption_keys(settings_of(service, env, monkeypatch))
        assert keys.setting in env
        assert keys.key_ids == (key.partition(":")[0],)


@pytest.mark.parametrize("service", OURS)
async def test_without_keys_the_service_says_where_they_may_come_from(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsInvalid, match="ENCRYPTION_KEYS is not set, nor is ENCRYPTION_KEYS_FILE"):
        await encryption_keys(settings_of(service, {}, monkeypatch))


def test_the_page_mounts_a_key_file_where_the_setting_looks_for_it() -> None:
    page = DEPLOY.read_text(encoding="utf-8")
    (override,) = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    assert set(override["services"]) == set(OURS)
    for service in OURS:
        (volume,) = override["services"][service]["volumes"]
        assert f"`ENCRYPTION_KEYS_FILE={volume.split(':')[1]}`" in page


@pytest.mark.parametrize("service", OURS)
def test_nobody_has_to_write_a_file(service: str) -> None:
    assert [entry["required"] for entry in SERVICES[service]["env_file"]] == [False]


def test_the_database_is_told_nothing_but_its_own() -> None:
    told = environment_of("database", {**NEEDED, **dict.fromkeys(SETTINGS, "as set")})
    assert set(told) == {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"}
    assert set(SERVICES) == {"database", *OURS}


@pytest.mark.parametrize("service", ["database", *OURS])
def test_no_secret_and_no_name_that_is_not_a_setting_stands_in_the_file(service: str) -> None:
    environment = SERVICES[service]["environment"]
    for name, value in environment.items():
        if name not in {"POSTGRES_USER", "POSTGRES_DB"}:
            assert _VARIABLE.search(value), name
    if service in OURS:
        assert set(environment) <= SETTINGS


def test_the_build_is_given_what_the_image_is_made_of_and_nothing_else() -> None:
    root = FILE.parent.parent
    copied = set()
    for line in (root / "docker" / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied.update(line.split()[1:-1])
    rules = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in rules
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
