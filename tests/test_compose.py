"""What an operator sets for ``docker/compose.yaml`` reaches the service, and no secret stands in the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from oauth_app.settings import Settings

FILE = Path(__file__).parent.parent / "docker" / "compose.yaml"
SERVICES: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]
OURS = ("migrate", "web", "worker")
SETTINGS = {name.upper() for name in Settings.model_fields}
SET_BY_THE_FILE = "DATABASE_URL"
_VARIABLE = re.compile(r"\$\{(\w+)(?::[-?][^}]*)?\}")


def environment_of(service: str, env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a container as Compose puts it together, with ``.env`` beside the file and an empty shell.

    https://docs.docker.com/compose/how-tos/environment-variables/envvars-precedence/
    """
    described = SERVICES[service]
    from_file = env if [entry["path"] for entry in described.get("env_file", [])] == [".env"] else {}
    named = {
        name: _VARIABLE.sub(lambda found: env.get(found[1], ""), value)
        for name, value in described["environment"].items()
    }
    return {**from_file, **named}


@pytest.mark.parametrize("service", OURS)
def test_every_setting_reaches_the_service(service: str) -> None:
    env = {name: f"what {name} is set to" for name in SETTINGS - {SET_BY_THE_FILE}}
    environment = environment_of(service, env)
    assert {name: environment.get(name) for name in env} == env


@pytest.mark.parametrize("service", OURS)
def test_the_store_is_the_one_of_the_file(service: str) -> None:
    environment = environment_of(service, {"DATABASE_URL": "elsewhere", "POSTGRES_PASSWORD": "p4ssw0rd"})
    assert environment["DATABASE_URL"] == "postgresql+asyncpg://segment:p4ssw0rd@database/segment"
    settings = Settings(_env_file=None, database_url=environment["DATABASE_URL"])  # type: ignore[call-arg]
    assert settings.database_url == environment["DATABASE_URL"]


@pytest.mark.parametrize("service", OURS)
def test_nobody_has_to_write_a_file(service: str) -> None:
    assert [entry["required"] for entry in SERVICES[service]["env_file"]] == [False]


def test_the_database_is_told_nothing_but_its_own() -> None:
    told = environment_of("database", dict.fromkeys(SETTINGS, "as set"))
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
