"""The whole service for a signed sender: the command that makes its URL, the endpoint, a sink, receipts, metrics."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.cli import app
from enable_with_segment.oauth_app.runtime.settings import load_settings
from enable_with_segment.oauth_app.web.application import create_app
from enable_with_segment.subscriptions.receiving.signature import sign

BASE = "http://localhost:8888"
FIRST = b'{"type":"track","event":"Paid","userId":"u-1","messageId":"m-1","total":1.0}'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with handlers of its own, which are nothing but a sink."""
    (tmp_path / "sink_only_handlers.py").write_text(
        "from enable_with_segment import Subscription\n"
        "from enable_with_segment import JsonLinesSink\n"
        "crm = Subscription('acme-crm')\n"
        f"crm.to(JsonLinesSink({str(tmp_path / 'files')!r}))\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/control.db")
    monkeypatch.setenv("ENCRYPTION_KEYS", generate_encryption_key())
    monkeypatch.setenv("HANDLERS", "sink_only_handlers:crm")
    monkeypatch.setenv("BASE_URL", BASE)
    return tmp_path


def run(line: str) -> Result:
    """Run a command that has to succeed."""
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 0, done.output
    return done


def serve_and(work: Any) -> None:
    """Run the whole application, from its settings, while a coroutine talks to it."""

    async def serving() -> None:
        application = create_app(load_settings())
        transport = httpx.ASGITransport(application, client=("127.0.0.1", 1))
        async with application.router.lifespan_context(application), httpx.AsyncClient(transport=transport) as http:
            await work(http)

    asyncio.run(serving())


def test_from_the_command_to_the_file(folder: Path) -> None:
    made = json.loads(run("api-keys create --account acct_42 --signed --json").stdout)
    assert made["url"] == f"{BASE}/subscriptions/acme-crm/{made['api_key']}"
    assert made["account"] == "acct_42"

    async def deliver(http: httpx.AsyncClient) -> None:
        body = b"[" + FIRST + b',{"no":"type"}]'
        headers = {"X-Signature": sign(made["signing_secret"], FIRST)}
        assert (await http.put(made["url"], content=body, headers=headers)).status_code == 202
        assert (await http.post(made["url"], content=body)).status_code == 401
        while not list((folder / "files").glob("*.jsonl")):  # noqa: ASYNC110  the dispatcher works beside us
            await asyncio.sleep(0.01)
        text = (await http.get(f"{BASE}/metrics")).text
        assert 'deliveries_total{component="acme-crm",status="202"} 1' in text
        assert 'deliveries_total{component="acme-crm",status="401"} 1' in text

    serve_and(deliver)
    (line,) = next((folder / "files").glob("*.jsonl")).read_text("utf-8").splitlines()
    assert json.loads(line)["account"] == "acct_42"

    (shown,) = json.loads(run("events show m-1 --json").stdout)
    receipt = shown["receipt"]
    assert (receipt["state"], receipt["account"], receipt["duplicates"]) == ("handled", "acct_42", 0)
    assert receipt["handlers"][0]["handler"] == "json lines (track)"
    assert receipt["handled_after"] >= receipt["handlers"][0]["after"] >= 0
    for_people = run("events show m-1").stdout
    assert "committed before it was" in for_people
    assert "done, noted" in for_people


def test_both_values_are_shown_once_listed_as_signed_and_rotated_together(folder: Path) -> None:
    shown = run("api-keys create --account acct_42 --signed").stdout
    url, secret = (line.split()[-1] for line in shown.splitlines()[:2])
    assert url.startswith(f"{BASE}/subscriptions/acme-crm/ewh_")
    run("api-keys create --account acct_42")
    listed = run("api-keys list --json").stdout
    keys = json.loads(listed)
    assert sorted(key["signed"] for key in keys) == [False, True]
    assert secret not in listed
    assert url.rpartition("/")[2] not in listed
    (signed,) = [key["id"] for key in keys if key["signed"]]
    rotated = json.loads(run(f"api-keys rotate {signed} --json").stdout)
    assert rotated["url"] not in {url, ""}
    assert rotated["signing_secret"] != secret
    run(f"api-keys revoke {signed}")

    async def deliver(http: httpx.AsyncClient) -> None:
        old = await http.post(url, content=FIRST, headers={"X-Signature": sign(secret, FIRST)})
        new = await http.post(
            rotated["url"], content=FIRST, headers={"X-Signature": sign(rotated["signing_secret"], FIRST)}
        )
        assert (old.status_code, new.status_code) == (401, 202)

    serve_and(deliver)
    assert secret.encode() not in (folder / "control.db").read_bytes()


@pytest.mark.usefixtures("folder")
def test_case_066_an_account_is_suspended_and_resumed() -> None:
    made = json.loads(run("api-keys create --account acct_42 --json").stdout)
    statuses: list[int] = []

    async def deliver(http: httpx.AsyncClient) -> None:
        sent = await http.post(f"{BASE}/subscriptions/acme-crm", content=FIRST, auth=(made["api_key"], ""))
        statuses.append(sent.status_code)

    for command in ("suspend acct_42 --reason unpaid", "resume acct_42"):
        run(f"accounts {command}")
        serve_and(deliver)
    assert statuses == [403, 202]
    written = [entry for entry in json.loads(run("audit list --json").stdout) if entry["subject"] == "acct_42"]
    assert sorted((entry["action"], entry["reason"]) for entry in written) == [
        ("operator.resume_account", None),
        ("operator.suspend_account", "unpaid"),
    ]
    unknown = CliRunner().invoke(app, ["accounts", "suspend", "nobody"])
    assert (unknown.exit_code, "there is no account nobody" in unknown.output) == (1, True)
