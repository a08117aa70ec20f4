"""The watch over every test can fail: secrets that are planted are found, wherever they are written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from enable_with_segment.db.encryption import EncryptionKeys, Place, generate_encryption_key
from tests.leak_watch import LeakWatch, command_name

PYTEST = (
    *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis"),
    *("-o", "asyncio_mode=auto"),
)
PLANTED = """
import base64, logging, secrets
import httpx, typer
import pytest
from pathlib import Path
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from typer.testing import CliRunner
from enable_with_segment.db.encryption import EncryptionKeys, Place, generate_encryption_key
from enable_with_segment.segment_api.secret import Secret
from tests.leak_watch import _hooks, leak_watch
from tests.oauth_app.operations import running_service

SECRET = "a-secret-of-24-characters"


def encrypted():
    EncryptionKeys.parse(generate_encryption_key()).encrypt(SECRET, Place("api_keys", "key_ciphertext", "key_1"))


def test_log():
    encrypted()
    logging.getLogger("enable_with_segment.any").debug("sending %s", base64.b64encode(SECRET.encode() + b":"))


def test_traceback():
    Secret(SECRET)
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("enable_with_segment.subscriptions").exception("it failed")


def test_library_log():
    encrypted()
    logging.getLogger("httpx").warning("GET /?key=%s", SECRET)


async def test_page(tmp_path):
    encrypted()
    async with running_service(tmp_path) as service:
        show = lambda request: PlainTextResponse(f"your key: {SECRET}")
        service.app.router.routes.insert(0, Route("/page", show))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app)) as http:
            await http.get("http://localhost/page")


def test_command():
    encrypted()
    app = typer.Typer()
    app.command()(lambda: print(SECRET))
    CliRunner().invoke(app, [])


def test_encryption_key():
    text = generate_encryption_key()
    EncryptionKeys.parse(text)
    logging.getLogger("enable_with_segment.db").info("keys %s", text)


async def test_api_token(tmp_path):
    async with running_service(tmp_path) as service:
        logging.getLogger("enable_with_segment").info("token %s", await service.token())


async def test_link(tmp_path):
    async with running_service(tmp_path) as service:
        logging.getLogger("enable_with_segment").info("made %s", await service.services.connect_links.create("acct_1"))


async def test_api_key(tmp_path):
    async with running_service(tmp_path) as service:
        logging.getLogger("enable_with_segment").info("made %s", (await service.api_key())[1])


def test_harmless():
    encrypted()
    logging.getLogger("enable_with_segment").info("nothing to see in an earlier test's %s", "a-secret-of-another-test")
"""


def test_tk_13_tk_14_every_test_fails_that_writes_a_secret(tmp_path: Path) -> None:
    planted = tmp_path / "test_planted.py"
    planted.write_text(PLANTED)
    run = subprocess.run(  # noqa: S603 - our own tests
        [*PYTEST, "--rootdir", str(tmp_path), str(planted)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    names = [line.split("(")[0].removeprefix("def ").removeprefix("async def ") for line in PLANTED.splitlines()]
    tests = {name for name in names if name.startswith("test_")}
    errors = [line for line in run.stdout.splitlines() if line.startswith("ERROR ") and "::" in line]
    failed = {line.split("::")[1].split()[0] for line in errors}
    assert failed == tests - {"test_harmless"}, run.stdout
    assert f"{len(tests)} passed, {len(tests) - 1} errors" in run.stdout
    assert "a-secret-of-24" not in "".join(line for line in run.stdout.splitlines() if line.startswith("E "))
    assert "api_keys.key_ciphertext in answer to GET /page" in run.stdout


def test_what_a_test_allows_is_shown_there_only(leak_watch: LeakWatch) -> None:
    watch = LeakWatch()
    watch.begin()
    watch.secret("api key", "a-key-of-20-characters")
    watch.allow("api key", "output of api-keys create")
    watch.wrote("output of api-keys create", b"a-key-of-20-characters")
    watch.wrote("output of api-keys list", b"a-key-of-20-characters")
    assert watch.end() == ["api key in output of api-keys list"]


def test_a_secret_made_before_the_test_is_known_and_one_of_another_test_is_forgotten() -> None:
    watch = LeakWatch()
    watch.secret("encryption key", "a-key-of-the-session")
    watch.begin()
    watch.secret("api key", "a-key-of-this-test")
    watch.end()
    watch.begin()
    watch.wrote("log", b"a-key-of-the-session a-key-of-this-test")
    assert watch.end() == ["encryption key in log"]


def test_what_is_opened_is_a_secret_too(leak_watch: LeakWatch) -> None:
    keys, place = EncryptionKeys.parse(generate_encryption_key()), Place("install_tokens", "access_token", "ins_1")
    ciphertext = keys.encrypt("a-token-of-this-test", place)
    leak_watch.begin()
    keys.decrypt(ciphertext, place)
    leak_watch.wrote("log", b"a-token-of-this-test")
    assert leak_watch.end() == ["install_tokens.access_token in log"]
    leak_watch.begin()


@pytest.mark.parametrize(
    ("line", "name"),
    [("api-keys create --account a --json", "api-keys create"), ("doctor --online", "doctor"), ("", "")],
)
def test_a_command_is_named_by_its_words(line: str, name: str) -> None:
    assert command_name(line.split()) == name
