"""``installs`` and ``connect-link --reconnect`` at the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import connect_links, installs, outbox
from enable_with_segment.db.control.tables import ConnectLink, InstallStatus, InstallToken
from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.installs.reconciliation import RECONCILE
from enable_with_segment.oauth_app.cli import app
from enable_with_segment.oauth_app.runtime.settings import Settings, load_settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from tests.rows import an_install

ENVIRONMENT = {
    "HANDLERS": "examples.acme_crm.handlers:crm",
    "SEGMENT_CLIENT_ID": "client",
    "SEGMENT_CLIENT_SECRET": "not-a-real-secret",
    "SEGMENT_DESTINATION": "acme-crm",
    "SEGMENT_IDENTITY_URL": "http://127.0.0.1:9",
    "SEGMENT_CONFIG_API_URL": "http://127.0.0.1:9/v1beta",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A deployment that knows three installs, in front of a Segment that nobody can reach."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in {**ENVIRONMENT, "ENCRYPTION_KEYS": generate_encryption_key()}.items():
        monkeypatch.setenv(name, value)

    async def fill() -> None:
        async with open_stores(load_settings()) as stores, stores.control.transaction() as session:
            now = utc_now()
            for name, status in {
                "ins_works": InstallStatus.RECEIVING,
                "ins_drifts": InstallStatus.CONNECTED,
                "ins_gone": InstallStatus.DISCONNECTED,
            }.items():
                session.add(
                    an_install(
                        name,
                        now=now,
                        account="acct_1",
                        status=status,
                        source_name="workspaces/northwind/sources/web-prod",
                    )
                )
                await session.flush()
                session.add(InstallToken(install_id=name, expires_at=now, refreshed_at=now))
            await installs.set_connection_state(session, "ins_drifts", "drifted", reason="destination_disabled")

    asyncio.run(fill())


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def queued() -> list[str]:
    """The installs that a look is queued for."""

    async def read() -> list[str]:
        async with open_stores(load_settings()) as stores, stores.control.transaction() as session:
            return sorted(await outbox.open_of_kind(session, RECONCILE))

    return asyncio.run(read())


def test_list_shows_drift_and_its_reason() -> None:
    told = {row["id"]: row for row in json.loads(command("installs", "list", "--json").output)}
    assert (told["ins_drifts"]["connection_state"], told["ins_drifts"]["connection_reason"]) == (
        "drifted",
        "destination_disabled",
    )
    assert told["ins_works"]["connection_state"] is None
    assert "drifted" in CliRunner().invoke(app, ["installs", "list"], env={"COLUMNS": "200"}).output


def test_reconcile_all_queues_a_look_at_every_install_that_is_connected_and_never_twice() -> None:
    first, second = command("installs", "reconcile", "--all"), command("installs", "reconcile", "--all")
    assert "Queued: 2" in first.output
    assert "Queued: 0" in second.output
    assert queued() == ["ins_drifts", "ins_works"]


@pytest.mark.parametrize("arguments", [(), ("ins_works", "--all")])
def test_reconcile_wants_one_install_or_all(arguments: tuple[str, ...]) -> None:
    refused = command("installs", "reconcile", *arguments)
    assert refused.exit_code == 2
    assert queued() == []


def test_show_tells_how_the_token_is() -> None:
    told = json.loads(command("installs", "show", "ins_works", "--json").output)
    assert (told["token_health"], told["token_held_back_until"], told["next_look_at"]) == ("ok", None, None)


def test_refresh_says_in_a_sentence_why_there_is_no_token() -> None:
    refused = command("installs", "refresh", "ins_works", "--reason", "a customer asked")
    assert refused.exit_code == 1
    assert "could not be reached" in refused.output
    assert command("installs", "refresh", "ins_nobody").exit_code == 1
    (noted,) = json.loads(command("audit", "list", "--action", "operator.refresh", "--json").stdout)
    assert (noted["subject"], noted["reason"]) == ("ins_works", "a customer asked")


@pytest.mark.parametrize("act", ["reconcile", "rotate-key", "refresh", "disconnect", "keep"])
def test_an_act_that_does_not_fit_is_refused_in_a_sentence_and_not_noted(act: str) -> None:
    refused = command("installs", act, "ins_gone")
    assert refused.exit_code == 1
    assert "ins_gone: It is disconnected. The customer has to connect it again." in refused.output
    assert command("installs", act, "ins_nobody").exit_code == 1
    assert json.loads(command("audit", "list", "--json").stdout) == []


def test_keys_come_from_the_partners_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "acme_own_keys.py").write_text(
        "def make(account, component):\n    return f'{component}-key-of-{account}'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("API_KEY_HOOK", "acme_own_keys:make")
    made = command("api-keys", "create", "--account", "acct_1", "--json")
    assert json.loads(made.output)["api_key"] == "acme-crm-key-of-acct_1"
    again = command("api-keys", "create", "--account", "acct_1")
    assert again.exit_code == 2
    assert "API_KEY_HOOK returned a key that it had returned before" in again.output.replace("\n", " ")
    monkeypatch.setenv("API_KEY_HOOK", "acme_own_keys:missing")
    wrong = command("api-keys", "create", "--account", "acct_1")
    assert wrong.exit_code == 2
    assert "API_KEY_HOOK" in wrong.output


@pytest.mark.parametrize("account", ["", "x" * 5000, " padded ", "a\nb"])
@pytest.mark.parametrize(
    "line",
    [
        "connect-link --account",
        "api-keys create --account",
        "api-keys list --account",
        "installs list --account",
        "events list --account",
        "dead-letters groups --account",
        "events replay --account",
        "events erase --user-id u --account",
        "accounts suspend",
        "accounts resume",
    ],
)
def test_an_account_that_cannot_be_is_refused_by_every_command(line: str, account: str) -> None:
    refused = command(*line.split(), account)
    assert refused.exit_code == 2
    wanted = "an account is 1 to 200 printable characters without spaces around them"
    assert wanted in " ".join(refused.output.split())


def stored_link(url: str) -> ConnectLink | None:
    """The connect link of an address that a command printed."""

    async def find() -> ConnectLink | None:
        async with open_stores(load_settings()) as stores, stores.control.transaction() as session:
            token = url.rpartition("/")[2]
            return await connect_links.find_usable(session, token, component="acme-crm", now=utc_now())

    return asyncio.run(find())


def test_a_link_that_reconnects_names_the_install_and_only_one_of_the_account() -> None:
    made = command("connect-link", "--account", "acct_1", "--reconnect", "ins_gone", "--json")
    link = stored_link(json.loads(made.output)["url"])
    assert link is not None
    assert link.reconnects == "ins_gone"
    refused = command("connect-link", "--account", "acct_2", "--reconnect", "ins_gone")
    assert refused.exit_code == 2
    assert "acct_2 has no install" in refused.output


def test_a_link_takes_settings_that_the_subscription_declares() -> None:
    made = command("connect-link", "--account", "acct_1", "--setting", "Region=eu", "--json")
    assert made.exit_code == 0, made.output
    link = stored_link(json.loads(made.output)["url"])
    assert link is not None
    assert link.settings == {"region": "eu"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["regoin=eu"], "'acme-crm' has no setting 'regoin'; it declares: region"),
        (["region=mars"], "the setting 'region' has to be one of us, eu"),
        (["region=eu", "Region=us"], "the setting 'region' is given twice"),
        (["region"], "--setting takes key=value, not 'region'"),
    ],
    ids=["unknown", "unusable", "twice", "no value"],
)
def test_a_setting_that_would_come_to_nothing_is_refused_at_once(given: list[str], told: str) -> None:
    options = [part for pair in given for part in ("--setting", pair)]
    refused = command("connect-link", "--account", "acct_1", *options)
    assert refused.exit_code == 2
    assert told in refused.output.replace("\n", " ")


def test_without_the_code_of_the_component_a_setting_is_refused_and_a_link_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HANDLERS")
    refused = command("connect-link", "--account", "acct_1", "--setting", "region=eu")
    assert refused.exit_code == 2
    assert "set HANDLERS to the Subscription that declares them" in refused.output.replace("\n", " ")
    assert command("connect-link", "--account", "acct_1").exit_code == 0
