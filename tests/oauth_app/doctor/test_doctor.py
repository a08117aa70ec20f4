"""What doctor finds, what it says to do, and its exit status (security OP-1, OP-2, OP-5)."""

from __future__ import annotations

import json
import os
import re
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from typer.testing import CliRunner

from enable_with_segment import Subscription
from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.oauth_app.cli import app
from enable_with_segment.oauth_app.doctor import Finding, Level, accept, examine
from enable_with_segment.oauth_app.doctor.configuration import check_delete_handler
from enable_with_segment.oauth_app.doctor.dependencies import FLOORS, check_dependencies, installed_version, release
from enable_with_segment.oauth_app.doctor.network import check_public_address, judge_certificate
from enable_with_segment.oauth_app.doctor.stores import (
    check_partition_rights,
    judge_postgresql,
    judge_size,
    judge_space,
)
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from tests.listening import listening

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A deployment that is in order, on empty SQLite stores."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HANDLERS", "examples.acme_crm.handlers:crm")
    monkeypatch.setenv("ENCRYPTION_KEYS", generate_encryption_key())


@pytest.fixture
async def stored() -> None:
    """The deployment has run before."""
    async with open_stores(Settings()):
        pass


async def found(**options: Any) -> dict[str, Finding]:
    """The worst finding of every check."""
    order = list(Level)
    worst: dict[str, Finding] = {}
    async for finding in examine(**options):
        known = worst.get(finding.check)
        if known is None or order.index(finding.level) > order.index(known.level):
            worst[finding.check] = finding
    return worst


async def test_a_deployment_in_order_has_no_failure(stored: None) -> None:
    findings = await found()
    assert [finding for finding in findings.values() if finding.level is Level.FAILURE] == []
    assert findings["encryption-keys"].level is Level.OK
    assert findings["durability"].level is Level.OK


async def test_every_problem_comes_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_URL", "https://segment.acme.example")
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    monkeypatch.delenv("ENCRYPTION_KEYS")
    monkeypatch.delenv("HANDLERS")
    findings = [finding async for finding in examine()]
    problems = [finding for finding in findings if finding.level is not Level.OK]
    assert len(problems) >= 6
    assert all(finding.advice for finding in problems)


async def test_looking_changes_nothing(tmp_path: Path) -> None:
    await found()
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - nothing else runs here


def test_op_01_dependency_floors_hold() -> None:
    for package, floor in FLOORS.items():
        assert release(installed_version(package) or "") >= floor
    assert installed_version("httpx2") is None
    assert FLOORS == {"authlib": (1, 6, 12), "starlette": (1, 3, 1)}
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package, floor in FLOORS.items():
        assert f'"{package}>={".".join(map(str, floor))},' in declared


@pytest.mark.parametrize(
    ("package", "version", "level"),
    [
        ("authlib", "1.6.11", Level.FAILURE),
        ("authlib", None, Level.FAILURE),
        ("authlib", "1.10", Level.OK),
        ("starlette", "1.3.0", Level.FAILURE),
        ("httpx2", "2.0", Level.FAILURE),
    ],
)
def test_op_01_doctor_fails_below_a_floor(package: str, version: str | None, level: Level) -> None:
    versions = {"authlib": "2.0.0", "starlette": "2.0.0", package: version}
    levels = [finding.level for finding in check_dependencies(versions.get) if package in finding.message]
    assert levels == [level]


def test_op_02_every_default_is_the_documented_one() -> None:
    """No secret has a default, and what has one says so in the documentation."""
    documented = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        if any(word in name for word in ("secret", "keys", "token")):
            assert field.default is None, f"{name} has a default"
        row = next(line for line in documented.splitlines() if line.startswith(f"| `{name.upper()}`"))
        if field.default in (None, (), "this product"):
            continue
        value = str(field.default)
        if isinstance(field.default, bool | float):
            value = value.lower().removesuffix(".0")
        assert re.search(rf"`{re.escape(value)}`( \(default\))?", row), f"{name}: the default {value} is not documented"


async def test_op_05_doctor_fails_on_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_URL", "http://segment.acme.example")
    finding = (await found())["settings"]
    assert finding.level is Level.FAILURE
    assert finding.message.startswith("BASE_URL: must be https")


@pytest.mark.parametrize(
    ("base_url", "level"), [("https://segment.acme.example", Level.FAILURE), ("http://localhost:8888", Level.WARNING)]
)
async def test_op_05_doctor_fails_on_debugging(monkeypatch: pytest.MonkeyPatch, base_url: str, level: Level) -> None:
    monkeypatch.setenv("BASE_URL", base_url)
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    assert (await found())["log-level"].level is level


@pytest.mark.parametrize(
    ("base_url", "level"), [("https://segment.acme.example", Level.FAILURE), ("http://localhost:8888", Level.OK)]
)
async def test_op_05_doctor_fails_on_sqlite_in_production(
    monkeypatch: pytest.MonkeyPatch, base_url: str, level: Level
) -> None:
    monkeypatch.setenv("BASE_URL", base_url)
    finding = (await found())["sqlite"]
    assert finding.level is level
    assert accept([finding], ["sqlite"])[0].level is not Level.FAILURE


def test_op_05_doctor_fails_without_a_delete_handler() -> None:
    crm = Subscription("acme-crm")

    @crm.on("track")
    async def store(event: object) -> None: ...

    finding = check_delete_handler(crm)
    assert finding.level is Level.FAILURE
    assert 'on("delete")' in finding.advice

    @crm.on("delete")
    async def forget(event: object) -> None: ...

    assert check_delete_handler(crm).level is Level.OK


@pytest.mark.parametrize(
    ("moved", "level", "word"),
    [(0, Level.OK, "within"), (58, Level.OK, "within"), (90, Level.FAILURE, "ahead"), (-90, Level.FAILURE, "behind")],
)
async def test_op_05_doctor_fails_on_a_wrong_clock(
    monkeypatch: pytest.MonkeyPatch, moved: int, level: Level, word: str
) -> None:
    async with listening(Starlette()) as port:
        set_up_app(monkeypatch, port)
        finding = (await found(clock=lambda: utc_now() + timedelta(seconds=moved)))["clock"]
    assert finding.level is level
    assert word in finding.message


async def test_segment_out_of_reach_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(Starlette()) as port:
        pass
    set_up_app(monkeypatch, port)
    findings = await found()
    assert findings["clock"].level is Level.WARNING
    assert findings["segment-app"].message.endswith("http://localhost:8888/auth/segment/callback")


async def test_keys_that_do_not_open_the_store(stored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    other = generate_encryption_key()
    monkeypatch.setenv("ENCRYPTION_KEYS", other)
    finding = (await found())["encryption-keys"]
    assert finding.level is Level.FAILURE
    assert "back into ENCRYPTION_KEYS" in finding.advice
    assert other.partition(":")[2] not in f"{finding}"


async def test_more_keys_than_are_needed_is_a_warning(stored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCRYPTION_KEYS", f"{os.environ['ENCRYPTION_KEYS']},{generate_encryption_key()}")
    finding = (await found())["encryption-keys"]
    assert finding.level is Level.WARNING
    assert "rotate --stage use" in finding.advice


async def test_a_store_without_schema_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "control.db").touch()
    finding = (await found())["control-store"]
    assert (finding.level, finding.advice) == (Level.FAILURE, "Run: enable-with-segment migrate")


async def test_a_database_that_does_not_answer_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(Starlette()) as port:
        pass
    monkeypatch.setenv("DATABASE_URL", f"postgresql+asyncpg://user:hunter2@127.0.0.1:{port}/x")
    findings = await found()
    assert findings["control-store"].level is Level.FAILURE
    assert findings["event-log"].level is Level.FAILURE
    assert "hunter2" not in str(findings)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_postgresql_that_may_lose_commits_is_a_failure(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    server = Database.open(database_url)
    name = server.engine.url.database
    async with server.engine.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(
            text(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
        )
    await server.close()
    finding = (await found())["durability"]
    assert finding.level is Level.FAILURE
    assert "synchronous_commit" in finding.message


def test_postgresql_settings_are_judged() -> None:
    safe = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "local"}
    assert judge_postgresql("event log", safe).level is Level.OK
    for setting in safe:
        assert judge_postgresql("event log", {**safe, setting: "off"}).level is Level.FAILURE


@pytest.mark.parametrize(("free", "level"), [(10**8, Level.FAILURE), (5 * 10**8, Level.WARNING), (10**10, Level.OK)])
def test_disk_space_is_judged(free: int, level: Level) -> None:
    assert judge_space("/data", free).level is level


@pytest.mark.parametrize("handlers", ["no_such_module:crm", "examples.acme_crm.handlers:nothing"])
async def test_handlers_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, handlers: str) -> None:
    monkeypatch.setenv("HANDLERS", handlers)
    assert (await found())["handlers"].level is Level.FAILURE


async def test_a_handler_module_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_partner.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.setenv("HANDLERS", "broken_partner:crm")
    assert "ZeroDivisionError" in (await found())["handlers"].message


async def test_the_public_address_is_looked_at_over_tls(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, days=30)
    trusted = ssl.create_default_context(cafile=certificate)
    async with listening(front(PlainTextResponse("ok\n")), certificate=certificate, key=key) as port:
        settings = Settings(base_url=f"https://127.0.0.1:{port}")
        levels = [finding.level async for finding in check_public_address(settings, utc_now, trusted)]
        refused = [finding async for finding in check_public_address(settings, utc_now)]
    assert levels == [Level.OK, Level.OK]
    assert [finding.level for finding in refused] == [Level.FAILURE, Level.FAILURE]
    assert "certificate" in refused[0].message


@pytest.mark.parametrize(
    ("response", "word"),
    [
        (RedirectResponse("https://elsewhere.example/healthz"), "redirects"),
        (PlainTextResponse("a parking page"), "not as this service"),
        (PlainTextResponse("ok", status_code=502), "not as this service"),
    ],
)
async def test_somebody_else_at_the_public_address_is_a_failure(response: Response, word: str) -> None:
    async with listening(front(response)) as port:
        settings = Settings(base_url=f"http://127.0.0.1:{port}")
        (finding,) = [finding async for finding in check_public_address(settings, utc_now)]
    assert finding.level is Level.FAILURE
    assert word in finding.message


def test_a_certificate_that_ends_soon_is_a_warning() -> None:
    assert judge_certificate("acme.example", timedelta(days=13)).level is Level.WARNING
    assert judge_certificate("acme.example", timedelta(days=15)).level is Level.OK


def test_the_command_exits_1_on_a_failure_and_prints_json(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = CliRunner().invoke(app, ["doctor", "--json"])
    assert (fine.exit_code, json.loads(fine.stdout)["ok"]) == (0, True)
    monkeypatch.setenv("BASE_URL", "https://segment.acme.example")
    failing = CliRunner().invoke(app, ["doctor", "--json"])
    assert (failing.exit_code, json.loads(failing.stdout)["ok"]) == (1, False)
    assert set(json.loads(failing.stdout)["findings"][0]) == {"check", "level", "message", "advice"}
    accepted = CliRunner().invoke(app, ["doctor", "--accept", "sqlite"])
    assert accepted.exit_code == 0
    assert "(accepted)" in accepted.stdout


def set_up_app(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("SEGMENT_CLIENT_ID", "id")
    monkeypatch.setenv("SEGMENT_CLIENT_SECRET", "secret")
    monkeypatch.setenv("SEGMENT_DESTINATION", "acme-crm")
    monkeypatch.setenv("SEGMENT_IDENTITY_URL", f"http://127.0.0.1:{port}")


def front(response: Response) -> Starlette:
    async def answer(_request: Request) -> Response:
        return response

    return Starlette(routes=[Route("/healthz", answer)])


def make_certificate(folder: Path, *, days: int) -> tuple[Path, Path]:
    """Write a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


@pytest.mark.parametrize(
    ("limit_gib", "level", "says"),
    [(None, Level.OK, "RETENTION_DAYS"), (4.0, Level.OK, "2.00 GiB of 4 GiB"), (1.5, Level.WARNING, "of 1.5 GiB")],
    ids=["unbounded", "within", "beyond"],
)
def test_the_size_of_the_event_log_is_judged_by_its_bound(limit_gib: float | None, level: Level, says: str) -> None:
    found = judge_size(2 * 1024**3, limit_gib)
    assert found.level is level
    assert says in found.message


async def test_who_may_not_make_partitions_is_told(postgresql_url: str) -> None:
    owner, guest = Database.open(postgresql_url), f"guest_{uuid4().hex}"
    async with owner.engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE ROLE {guest} LOGIN")
    stranger = Database.open(postgresql_url.replace("postgres@", f"{guest}@"))
    try:
        assert (await check_partition_rights(owner)).level is Level.OK
        assert (await check_partition_rights(stranger)).level is Level.FAILURE
    finally:
        await stranger.close()
        async with owner.engine.begin() as connection:
            await connection.exec_driver_sql(f"DROP ROLE {guest}")
        await owner.close()
