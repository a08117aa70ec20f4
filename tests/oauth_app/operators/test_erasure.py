"""``events erase`` where another process writes to the SQLite log, and where something fails on the way."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from enable_with_segment import Event, Setting, Subscription
from enable_with_segment.db.event_log.sqlite.writer_lock import WriterLock
from enable_with_segment.oauth_app.demo.processes import free_port
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from tests.oauth_app.shell import Shell

LINE = "events erase --account acct_1 --user-id karin@mail.example --wait 0"
MESSAGE_ID = r"delete-operator-era_\w+"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    made = Shell(tmp_path)
    assert made.run("migrate").exit_code == 0
    return made


@pytest.fixture
def another(tmp_path: Path) -> Iterator[None]:
    """Another process writes to the event log."""
    lock = WriterLock(tmp_path / "events.db")
    lock.acquire()
    yield
    lock.release()


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Something that answers at an address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def accept(request: BaseHTTPRequestHandler) -> None:
    request.send_response(202)
    request.send_header("Content-Length", "0")
    request.end_headers()


@pytest.mark.usefixtures("another")
def test_nobody_stores_it_and_both_reasons_are_told(shell: Shell) -> None:
    address = f"http://localhost:{free_port(0)}"
    done = shell.run(LINE, BASE_URL=address)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "error: nothing was erased: another process writes to this event log, and the service at "
        f"{address} did not take the delete (no answer, ConnectError). Start the service where BASE_URL leads to it, "
        "or stop the process that writes, and try again.\n"
    )
    keys = shell.json("api-keys list --json")
    assert isinstance(keys, list)
    assert [key["revoked_at"] is not None for key in keys] == [True]

    def refuse(request: BaseHTTPRequestHandler) -> None:
        request.send_response(503)
        request.end_headers()
        request.wfile.write(b"Stopped.")

    with answering(refuse) as address:
        done = shell.run(LINE, BASE_URL=address)
    assert "did not take the delete (the answer was 503: Stopped.)" in done.stderr


def test_what_cannot_be_stored_here_is_told_too(shell: Shell, tmp_path: Path) -> None:
    (segment,) = tmp_path.glob("events.db.0*1")
    with closing(sqlite3.connect(segment)) as connection:
        connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END")
    done = shell.run(LINE, BASE_URL=f"http://localhost:{free_port(0)}")
    assert done.exit_code == 1
    assert "the delete could not be stored (the event log's files failed: ConstraintError)" in done.stderr
    assert "(no answer, ConnectError)" in done.stderr
    assert re.search(rf"not known whether the delete {MESSAGE_ID} was stored", done.stderr)


crm = Subscription("acme-crm", settings=[Setting("region", required=True), Setting("size", type=int, default=3)])
told: list[tuple[str | None, object]] = []


@crm.on("delete")
async def forget(event: Event, settings: Mapping[str, object]) -> None:
    """Note who is to be forgotten."""
    told.append((event.user_id, dict(settings)))


def test_a_person_is_erased_without_a_key_and_whatever_deliveries_of_the_account_are_answered(shell: Shell) -> None:
    own = {"HANDLERS": f"{__name__}:crm"}
    assert shell.run("api-keys create --account acct_1").exit_code == 0
    assert shell.run("accounts suspend acct_1").exit_code == 0
    done = shell.run(LINE, **own)
    assert done.exit_code == 1, "stored, and nobody handles it yet"
    assert "Not done yet" in done.stdout

    async def handle() -> None:
        settings = Settings(**{name.lower(): value for name, value in {**shell.environment, **own}.items()})  # type: ignore[arg-type]
        async with open_stores(settings) as stores:
            await Dispatcher({crm.name: crm}, stores.event_log, stores.control).run_due()

    asyncio.run(handle())
    assert told == [("karin@mail.example", {"region": None, "size": 3})]
    keys, made = shell.json("api-keys list --json"), shell.json("audit list --action api_key.mint --json")
    assert isinstance(keys, list)
    assert isinstance(made, list)
    assert len(keys) == len(made) == 1, "only the customer's"


def test_without_a_handler_for_deletes_nothing_is_stored(shell: Shell) -> None:
    done = shell.run(LINE, HANDLERS="tests.oauth_app.runtime.test_handler_limits:hanging")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "nothing was erased: component" in done.stderr
    assert "has no handler for delete events" in done.stderr
    assert shell.json("events list --json") == []


@pytest.mark.usefixtures("another")
def test_a_delete_that_was_stored_is_named_when_the_rest_fails(shell: Shell, tmp_path: Path) -> None:
    with answering(accept) as address:
        done = shell.run(LINE, BASE_URL=address)
    assert done.exit_code == 1
    assert "the delete cannot be found in the event log; check EVENT_LOG_URL" in done.stderr
    assert re.search(rf"the delete {MESSAGE_ID} is stored all the same .* events show {MESSAGE_ID}\n", done.stderr)
    assert "nothing was erased" not in done.stderr

    def break_the_store(request: BaseHTTPRequestHandler) -> None:
        (tmp_path / "control.db").write_bytes(b"x" * 8192)
        accept(request)

    with answering(break_the_store) as address:
        done = shell.run(LINE, BASE_URL=address)
    assert done.exit_code == 1
    assert "the database does not answer" in done.stderr
    assert re.search(rf"the delete {MESSAGE_ID} is stored all the same", done.stderr)
    assert "nothing was erased" not in done.stderr


@pytest.mark.usefixtures("another")
def test_a_service_that_breaks_off_leaves_it_open(shell: Shell) -> None:
    with answering(lambda request: request.connection.close()) as address:
        done = shell.run(LINE, BASE_URL=address)
    assert done.exit_code == 1
    assert "no answer, " in done.stderr
    assert re.search(rf"not known whether the delete {MESSAGE_ID} was stored", done.stderr)
    assert "nothing was erased" not in done.stderr
