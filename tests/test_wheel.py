"""The wheel puts one name into an environment, so a partner's own modules keep theirs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import textwrap
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.http_client import httpx
from tests.journey.deployment import basic
from tests.listening import free_port

ROOT = Path(__file__).parent.parent
_LONGEST_SECONDS = 90.0

PROJECT = {
    "db.py": """
        from pathlib import Path

        def save(order):
            Path("orders.txt").write_text(order, encoding="utf-8")
    """,
    "subscriptions/__init__.py": "PLANS = ['basic', 'pro']",
    "oauth_app/__init__.py": "",
    "oauth_app/settings.py": "CURRENCY = 'EUR'",
    "acme.py": """
        import db
        import subscriptions
        from enable_with_segment import Subscription
        from oauth_app.settings import CURRENCY

        crm = Subscription("acme-crm")

        @crm.on("track")
        async def keep(event):
            db.save(f"{event.event} {subscriptions.PLANS[1]} {CURRENCY}")
    """,
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)  # noqa: S603 - our own build
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it, and what it depends on from this one."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)  # noqa: S603
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return folder / "bin" / "python"


@contextmanager
def running(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Run a process while the block lasts; it has to end cleanly."""
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)  # noqa: S603
        try:
            yield
            process.terminate()
            assert process.wait(30) == 0, (folder / "log.txt").read_text(encoding="utf-8")
        finally:
            process.kill()
            process.wait()


def test_the_wheel_holds_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"enable_with_segment"}
    for needed in (
        "py.typed",
        "oauth_app/web/button.js",
        "oauth_app/web/pages/templates/base.html",
        "db/event_log/log.py",
    ):
        assert f"enable_with_segment/{needed}" in names
    assert not any("test" in Path(name).stem.split("_") for name in names)


def test_the_service_runs_in_a_project_with_modules_of_the_same_names(python: Path, tmp_path: Path) -> None:
    for name, text in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    port = free_port()
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "PYTHONPATH": ".",
        "HANDLERS": "acme:crm",
        "BASE_URL": f"http://localhost:{port}",
        "ENCRYPTION_KEYS": generate_encryption_key(),
    }
    program = [str(python), "-m", "enable_with_segment"]
    created = [*program, "api-keys", "create", "--account", "acct_1"]
    key = subprocess.run(created, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)  # noqa: S603
    with running([*program, "serve", "--port", str(port)], tmp_path, environment):
        event = {"type": "track", "event": "Order", "userId": "u", "messageId": "m-1"}
        headers = {"Authorization": basic(key.stdout.strip())}
        answer = _delivered(f"http://localhost:{port}/subscriptions/acme-crm", event, headers)
        assert answer.status_code == 202, answer.text
        assert "Segment connection" in httpx.get(f"http://localhost:{port}/").text
        orders = tmp_path / "orders.txt"
        until = time.monotonic() + _LONGEST_SECONDS
        while not orders.exists() and time.monotonic() < until:
            time.sleep(0.05)
    assert orders.read_text(encoding="utf-8") == "Order pro EUR"


def _delivered(url: str, event: Mapping[str, str], headers: Mapping[str, str]) -> httpx.Response:
    """Send an event until something answers."""
    until = time.monotonic() + _LONGEST_SECONDS
    while True:
        try:
            return httpx.post(url, json=event, headers=headers)
        except httpx.TransportError:
            assert time.monotonic() < until, "the service did not start"
            time.sleep(0.1)
