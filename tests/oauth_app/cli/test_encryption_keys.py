"""``encryption-keys`` at the command line: a whole rotation, and starts that are refused (security TK-4, TK-5)."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control.service_secrets import ensure
from enable_with_segment.db.encryption import format_key_entries, generate_encryption_key
from enable_with_segment.oauth_app.cli import app
from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
from enable_with_segment.oauth_app.runtime.key_provider import encryption_keys, new_configured_key
from enable_with_segment.oauth_app.runtime.settings import Settings, load_settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from tests.key_service import TOKEN, KeyService
from tests.listening import listening

DEPLOY = Path(__file__).parents[3] / "docs" / "deploy.md"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A deployment with one key, whose stores were written with it."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("ENCRYPTION_KEYS", generate_encryption_key())
    start()


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """``serve`` configures logging for its whole process, which here is the tests' own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def start() -> None:
    """Open the stores as a starting service does."""

    async def opened() -> None:
        async with open_stores(load_settings()):
            pass

    asyncio.run(opened())


def command(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["encryption-keys", *arguments])


def status() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(command("status", "--json").stdout)
    return told


def test_tk_05_a_rotation_from_the_first_step_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    (old,) = status()["configured"]

    added = command("rotate")
    monkeypatch.setenv("ENCRYPTION_KEYS", added.stdout.strip())
    start()
    assert status()["configured"][0] == old
    assert "--stage use" in added.stderr

    monkeypatch.setenv("ENCRYPTION_KEYS", command("rotate", "--stage", "use").stdout.strip())
    start()
    told = status()
    assert told["configured"][1] == old
    assert "reencrypt --verify" in told["next"]
    assert command("rotate", "--stage", "retire").exit_code == 1

    done = command("reencrypt", "--verify")
    assert done.exit_code == 0, done.output
    assert "0 carry another key" in done.stdout
    assert {use["key_id"] for use in status()["in_use"]} == {told["current"]}

    last = json.loads(command("rotate", "--stage", "retire", "--json").stdout)
    assert last["keys"] == [told["current"]]
    monkeypatch.setenv("ENCRYPTION_KEYS", last["value"])
    start()
    assert status()["next"].startswith("Nothing to do")


def test_reencrypt_ends_with_what_status_says_is_next(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = command("reencrypt", "--verify")
    assert alone.exit_code == 0
    assert "Nothing to do" in alone.stdout
    assert "retire" not in alone.stdout

    monkeypatch.setenv("ENCRYPTION_KEYS", command("rotate").stdout.strip())
    start()
    too_early = json.loads(command("reencrypt", "--json").stdout)
    assert "--stage use" in too_early["next"]
    assert too_early["next"] == status()["next"]

    monkeypatch.setenv("ENCRYPTION_KEYS", command("rotate", "--stage", "use").stdout.strip())
    start()
    done = command("reencrypt").stdout.splitlines()
    assert status()["next"] in done
    assert "rotate --stage retire" in status()["next"]


def test_the_steps_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = re.findall(r"^\| (\d) \| `encryption-keys ([a-z -]+)` \|", DEPLOY.read_text(encoding="utf-8"), re.MULTILINE)
    assert [number for number, _ in steps] == ["1", "2", "3", "4"]
    for number, step in steps:
        done = command(*step.split())
        assert done.exit_code == 0, step
        if step.startswith("rotate"):
            assert f"Step {number} of {len(steps)}: " in done.stderr
            monkeypatch.setenv("ENCRYPTION_KEYS", done.stdout.strip())
            start()
        else:
            assert f"Step {number} of {len(steps)} " in command(step.split()[0], "--help").stdout
    assert status()["next"].startswith("Nothing to do")


def test_tk_05_a_step_out_of_order_is_refused_and_says_what_to_do() -> None:
    refused = command("rotate", "--stage", "use")
    assert refused.exit_code == 1
    assert "add one first" in refused.stderr


def test_tk_05_a_key_that_waits_to_be_used_is_not_retired_with_the_old_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCRYPTION_KEYS", command("rotate").stdout.strip())
    start()
    (old, new) = status()["configured"]
    refused = command("rotate", "--stage", "retire")
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert f"the key '{new}' was added and does not encrypt yet" in refused.stderr
    assert "encryption-keys rotate --stage use" in refused.stderr

    monkeypatch.setenv("ENCRYPTION_KEYS", command("rotate", "--stage", "use").stdout.strip())
    start()
    assert command("reencrypt").exit_code == 0
    monkeypatch.setenv("ENCRYPTION_KEYS", f"{os.environ['ENCRYPTION_KEYS']},{generate_encryption_key()}")
    assert len(status()["configured"]) == 3
    assert old in status()["configured"]
    assert command("rotate", "--stage", "retire").exit_code == 1, "nor when an old one could go"


def test_a_rotation_of_a_key_file_keeps_its_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(os.environ["ENCRYPTION_KEYS"], encoding="utf-8")
    file.chmod(0o600)
    monkeypatch.delenv("ENCRYPTION_KEYS")
    monkeypatch.setenv("ENCRYPTION_KEYS_FILE", str(file))
    lines = command("rotate").stdout.strip().splitlines()
    assert len(lines) == 2
    file.write_text("\n".join(lines), encoding="utf-8")
    start()
    assert status()["setting"] == "ENCRYPTION_KEYS_FILE"


def test_reencrypt_does_not_begin_while_a_key_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    (old,) = status()["configured"]
    monkeypatch.setenv("ENCRYPTION_KEYS", generate_encryption_key())
    refused = command("reencrypt")
    assert refused.exit_code == 2
    assert f"Put {old} back into ENCRYPTION_KEYS" in refused.stderr
    assert command("status").exit_code == 1


def test_a_store_that_is_not_there_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/elsewhere.db")
    refused = command("status")
    assert refused.exit_code == 2
    assert "enable-with-segment migrate" in refused.stderr


GOOD = base64.b64encode(b"g" * 32).decode()


@pytest.mark.parametrize(
    "value",
    [None, "k1:c2hvcnQ=", f"k1:{GOOD},k1:{GOOD}", f"k1:{GOOD}", GOOD],
    ids=["missing", "short", "repeated id", "opens nothing", "malformed"],
)
def test_tk_04_a_start_without_the_right_keys_exits_non_zero_and_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, logging_as_before: None, value: str | None
) -> None:
    monkeypatch.setenv("HANDLERS", "examples.acme_crm.handlers:crm")
    monkeypatch.setenv("BASE_URL", "http://localhost:1")  # where it is not set, serve sets it for good
    if value is None:
        monkeypatch.delenv("ENCRYPTION_KEYS")
    else:
        monkeypatch.setenv("ENCRYPTION_KEYS", value)
    refused = CliRunner().invoke(app, ["serve", "--port", "1"])
    assert refused.exit_code == 2
    assert "ENCRYPTION_KEYS" in refused.stderr
    assert GOOD not in refused.output
    assert "c2hvcnQ=" not in refused.output


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"ENCRYPTION_KEYS": "x", "ENCRYPTION_KEYS_FILE": "y"}, "both set"),
        ({"ENCRYPTION_KMS_TOKEN": "hunter2"}, "ENCRYPTION_KMS_URL"),
        ({"ENCRYPTION_KMS_URL": "http://kms.example.com"}, "https"),
    ],
)
def test_tk_04_settings_that_contradict_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], word: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid, match=word) as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)


async def test_the_canary_opens_with_every_configured_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCRYPTION_KEYS", f"{generate_encryption_key()},{os.environ['ENCRYPTION_KEYS']}")
    async with open_stores(load_settings()) as stores, stores.control.transaction() as session:
        before = stores.secrets.api_key_lookup
        assert await ensure(session, stores.encryption, "api_key_lookup", now=utc_now()) == before


async def test_keys_are_wrapped_by_the_key_service_and_unwrapped_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite+aiosqlite:///./wrapped/control.db")
    monkeypatch.setenv("ENCRYPTION_KMS_TOKEN", TOKEN)
    async with listening(KeyService().app) as port:
        monkeypatch.setenv("ENCRYPTION_KMS_URL", f"http://127.0.0.1:{port}/v1")
        key_id, wrapped = await new_configured_key(load_settings())
        monkeypatch.setenv("ENCRYPTION_KEYS", format_key_entries({key_id: wrapped}))
        async with open_stores(load_settings()) as stores:
            assert stores.encryption.key_ids == (key_id,)
            assert len(wrapped) > 32

        monkeypatch.setenv("ENCRYPTION_KMS_TOKEN", "hunter2")
        with pytest.raises(SettingsInvalid, match=r"ENCRYPTION_KMS_URL.*refuses.*403") as refused:
            await encryption_keys(load_settings())
    assert "hunter2" not in str(refused.value)


async def test_tk_04_a_clear_key_where_a_wrapped_one_belongs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCRYPTION_KMS_TOKEN", TOKEN)
    async with listening(KeyService().app) as port:
        monkeypatch.setenv("ENCRYPTION_KMS_URL", f"http://127.0.0.1:{port}/v1")
        with pytest.raises(SettingsInvalid, match=r"ENCRYPTION_KMS_URL.*refuses to unwrap"):
            await encryption_keys(load_settings())
