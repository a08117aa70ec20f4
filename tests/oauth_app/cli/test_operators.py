"""The commands of operators: ``api-tokens``, ``panic``, ``audit``, ``dashboard-link``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.oauth_app.shell import Shell


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    made = Shell(tmp_path)
    assert made.run("migrate").exit_code == 0
    return made


def test_a_token_is_shown_once_listed_and_revoked(shell: Shell) -> None:
    made = shell.json("api-tokens create --name backend --scope installs:read --scope events:read --json")
    assert isinstance(made, dict)
    assert made["token"].startswith("ewst_")
    assert made["scopes"] == ["events:read", "installs:read"]
    listed = shell.run("api-tokens list --json").stdout
    assert made["id"] in listed
    assert made["token"] not in listed
    assert shell.run(f"api-tokens revoke {made['id']}").exit_code == 0
    assert shell.run(f"api-tokens revoke {made['id']}").exit_code == 1
    assert json.loads(shell.run("api-tokens list --json").stdout)[0]["revoked_at"] is not None
    assert "backend" in shell.run("api-tokens list").stdout
    assert shell.run("api-tokens create --name x --scope everything").exit_code == 2


def test_tk_16_panic_works_without_encryption_keys_and_is_lifted(shell: Shell) -> None:
    stopped = shell.run("panic --reason drill", ENCRYPTION_KEYS="")
    assert (stopped.exit_code, "Stopped" in stopped.stdout) == (0, True)
    assert shell.json("panic --json") == {"stopped": True, "changed": False}
    assert shell.json("panic --lift --json") == {"stopped": False, "changed": True}
    assert "was not stopped" in shell.run("panic --lift").stdout
    assert shell.run("panic --lift --erase").exit_code == 2


def test_tk_16_erasing_wants_a_typed_word(shell: Shell) -> None:
    for typed in ("", "yes\n", "erase\n"):
        assert shell.run("panic --erase", typed=typed).exit_code == 1
    assert shell.json("audit list --action panic.erase --json") == []
    shell.json("api-keys create --account acct_1 --json")
    done = shell.run("panic --erase --reason stolen", typed="ERASE\n")
    assert (done.exit_code, "0 install tokens and 1 API keys" in done.stdout) == (0, True)
    (entry,) = json.loads(shell.run("audit list --action panic.erase --json").stdout)
    assert (entry["actor"], entry["reason"]) == ("cli", "stolen")


def test_the_audit_is_listed_and_filtered(shell: Shell) -> None:
    shell.run("panic --reason first")
    shell.run("panic --lift --reason second")
    listed = shell.json("audit list --subject service --json")
    assert isinstance(listed, list)
    assert [entry["reason"] for entry in listed] == ["second", "first"]
    assert "panic.engage" in shell.run("audit list").stdout
    assert "No entry" in shell.run("audit list --action nothing").stdout


def test_a_dashboard_link_is_only_made_on_this_machine(shell: Shell) -> None:
    assert shell.run("dashboard-link").stdout.startswith("http://localhost:8888/dashboard/sign-in/")
    refused = shell.run("dashboard-link", BASE_URL="https://segment.acme.example")
    assert refused.exit_code == 2
    assert "OIDC_ISSUER" in refused.output


def test_da_04_acts_at_the_command_line_leave_their_reason(shell: Shell) -> None:
    made = shell.json("api-keys create --account acct_1 --json")
    assert isinstance(made, dict)
    assert shell.run(f"api-keys rotate {made['id']} --reason leaver").exit_code == 0
    assert shell.run(f"api-keys revoke {made['id']} --reason leaked").exit_code == 0
    assert shell.run("dead-letters retry --all --reason mended").exit_code == 0
    assert shell.run("installs reconcile --all --reason drill").exit_code == 0
    assert shell.run("encryption-keys reencrypt --reason yearly").exit_code == 0
    for act, reason in (
        ("reencrypt", "yearly"),
        ("rotate_key", "leaver"),
        ("revoke_api_key", "leaked"),
        ("retry_dead_letters", "mended"),
        ("reconcile", "drill"),
    ):
        (entry,) = json.loads(shell.run(f"audit list --action operator.{act} --json").stdout)
        assert (entry["actor"], entry["reason"]) == ("cli", reason)
