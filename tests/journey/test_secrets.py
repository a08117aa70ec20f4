"""No secret of a whole journey stands in a store, a log, a page, an address or a command's output (TK-1, 13, 14)."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlmodel import select
from typer.testing import CliRunner

from enable_with_segment.db.control.tables import FlowState, ServiceSecret
from enable_with_segment.db.encryption import Place
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.cli import app
from enable_with_segment.oauth_app.demo.browser import Browser
from enable_with_segment.oauth_app.runtime.stores import open_stores
from enable_with_segment.segment_sandbox.config import DEFAULT_CLIENT_SECRET
from tests.journey.deployment import DESTINATION, Deployment, basic, until
from tests.leaks import KnownSecrets, forms_of

CALLBACK = "/auth/segment/callback"
PRINTS_A_SECRET = {"connect-link", "api-keys create"}
ALLOWED = {
    # The link's page has the link's address, and so has the status page; nothing else may hold them.
    "address": "link token",
}


class Customer:
    """A customer's browser that remembers every secret it was trusted with, and everything it was shown."""

    def __init__(self, deployment: Deployment, secrets: KnownSecrets) -> None:
        self._deployment = deployment
        self._secrets = secrets
        self.shown: dict[str, bytes] = {}

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[Browser]:
        """Open the browser."""
        hooks = {"response": [self._remember]}
        async with httpx.AsyncClient(timeout=30, event_hooks=hooks) as http:
            yield Browser(http)

    async def _remember(self, answer: httpx.Response) -> None:
        await answer.aread()
        for address in (str(answer.url), answer.headers.get("location", "")):
            query = parse_qs(urlsplit(address).query)
            for kind in ("code", "state", "code_challenge"):
                self._secrets.add(kind, *(value for value in query.get(kind, []) if value != "not-a-code"))
        if str(answer.url).startswith(self._deployment.url):
            for header in answer.headers.get_list("set-cookie"):
                self._secrets.add("cookie", *(morsel.value for morsel in SimpleCookie(header).values() if morsel.value))
            if not answer.has_redirect_location:
                self._keep(answer)

    def _keep(self, page: httpx.Response) -> None:
        number, path = len(self.shown), page.url.path
        headers = "\n".join(f"{name}: {value}" for name, value in page.headers.items() if name != "set-cookie").encode()
        self.shown[f"page {number} {page.status_code}"] = headers + b"\n\n" + page.content
        if path.startswith(("/connect/", "/status/")):
            self._secrets.add("link token", path.rpartition("/")[2])
        if path != CALLBACK:  # the address of a failed callback is the one that Segment sent the browser to
            self.shown[f"address {number}"] = str(page.url).encode()


class Operator:
    """Somebody at the command line, whose screen is read."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self.printed: dict[str, bytes] = {}

    async def types(self, line: str, *more: str) -> str:
        """Run a command; returns what it printed to standard output."""
        arguments, environment = [*line.split(), *more], self._deployment.environment
        done = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)
        assert done.exit_code == 0, done.output
        if line not in PRINTS_A_SECRET:
            self.printed[f"output of {line}"] = (done.stdout + done.stderr).encode()
        return done.stdout


async def test_tk_01_tk_13_tk_14_no_secret_of_a_whole_journey_is_written_anywhere(deployment: Deployment) -> None:
    secrets = KnownSecrets()
    secrets.add("client secret", DEFAULT_CLIENT_SECRET)
    secrets.add("encryption key", deployment.environment["ENCRYPTION_KEYS"].partition(":")[2])
    customer, operator = Customer(deployment, secrets), Operator(deployment)
    service = deployment.serve()

    async with customer.browser() as browser:
        status_url = await connects(deployment, browser, secrets)
        install = str((await deployment.reaches(status_url, "connected"))["install"])
        await collect_from_segment(deployment, secrets)
        await send_events(deployment)
        await refresh_token_and_rotate_key(deployment, operator, secrets, install)
        await collect_from_segment(deployment, secrets)
        await connects(deployment, browser, secrets)
        await fail_in_every_way(deployment, browser, secrets)
        await paste_a_key(deployment, operator, secrets)
        await deployment.control("delete", workspace="workspaces/northwind", user_id="cust_1")
        await deployment.reaches(status_url, "receiving")
        await browser.open(status_url)
    for line in (
        "installs list --json",
        "events list",
        "events show m-1",
        "api-keys list --json",
        "dead-letters list --json",
        f"installs show {install} --json",
        f"installs disconnect {install}",
    ):
        await operator.types(line)

    while_running = {f"{name} (running)": content for name, content in stored(deployment.folder).items()}
    assert service.terminate() == 0
    places = {**while_running, **stored(deployment.folder), **customer.shown, **operator.printed}
    expected = {"access token", "api key", "code verifier", "code", "state", "code_challenge", "cookie", "link token"}
    assert expected <= secrets.by_kind.keys()
    assert_really_read(places, install)
    leaked = secrets.leaks(places, allowed=ALLOWED)
    assert not leaked, "\n".join(leaked)


async def connects(deployment: Deployment, browser: Browser, secrets: KnownSecrets) -> str:
    """Go from a connect link to the status page; returns its address."""
    page = await walk_to_consent(deployment, browser, secrets)
    page = await browser.submit(page, button="allow")
    assert page.url.path.startswith("/status/"), page.url.path
    return str(page.url)


async def walk_to_consent(deployment: Deployment, browser: Browser, secrets: KnownSecrets) -> httpx.Response:
    """Go from a connect link to Segment's consent page, and learn what the service keeps of the open flow."""
    page = await browser.submit(await browser.open(await deployment.link("acct_northwind")))
    await collect_from_stores(deployment, secrets)
    return await browser.submit(page, button="owner@northwind.example") if page.url.path == "/login" else page


async def send_events(deployment: Deployment) -> None:
    """One that is handled, and one whose handler refuses it, so that its reason is stored and logged."""
    await deployment.send("identify", userId="cust_1", messageId="m-1", traits={"email": "kim@mail.example"})
    await deployment.send("track", userId="cust_1", event="Order Completed", messageId="m-2", properties={})
    assert await deployment.delivered("m-1") == [202]
    assert await deployment.delivered("m-2") == [202]
    await deployment.handled("m-1")


async def refresh_token_and_rotate_key(
    deployment: Deployment, operator: Operator, secrets: KnownSecrets, install: str
) -> None:
    """Refresh by hand; then expire the token, so that the service meets a 401, refreshes it, and pushes the new key."""
    tokens, key = await access_tokens(deployment), await api_key(deployment)
    await operator.types(f"installs refresh {install}")
    assert not tokens & await access_tokens(deployment), "Segment was asked, though the token had not expired"
    tokens = await access_tokens(deployment)
    secrets.add("access token", *tokens)
    await deployment.control("expire-tokens")
    await operator.types(f"installs rotate-key {install}")

    async def done() -> bool | None:
        return True if await api_key(deployment) != key else None

    await until(done, "Segment has the new key")
    assert not tokens & await access_tokens(deployment), "the old token is gone"


async def access_tokens(deployment: Deployment) -> set[str]:
    """The install tokens that Segment knows."""
    installs = (await deployment.state())["installs"]
    return {token["access_token"] for install in installs for token in install["tokens"]}


async def api_key(deployment: Deployment) -> str:
    """The key that Segment sends with deliveries."""
    return str((await deployment.destinations())[DESTINATION]["config"]["apiKey"])


async def fail_in_every_way(deployment: Deployment, browser: Browser, secrets: KnownSecrets) -> None:
    """A code that Segment does not know, a refusal, a broken token endpoint, and deliveries with wrong keys."""
    page = await walk_to_consent(deployment, browser, secrets)
    stopped = await browser.submit(page, button="allow", stop_before=deployment.url)
    (state,) = parse_qs(urlsplit(stopped.headers["location"]).query)["state"]
    page = await browser.open(f"{deployment.url}{CALLBACK}?code=not-a-code&state={state}")
    assert (page.status_code, "no longer accepts this attempt" in page.text) == (400, True)
    page = await browser.open(f"{deployment.url}{CALLBACK}?error=access_denied&error_description=no&state={state}")
    assert page.status_code == 400, "a state that was used gets its first answer again"
    page = await walk_to_consent(deployment, browser, secrets)
    stopped = await browser.submit(page, button="allow", stop_before=deployment.url)
    (state,) = parse_qs(urlsplit(stopped.headers["location"]).query)["state"]
    page = await browser.open(f"{deployment.url}{CALLBACK}?error=access_denied&error_description=no&state={state}")
    assert page.status_code == 403

    await deployment.control("uninstall", install_name=(await deployment.state())["installs"][0]["name"])
    await deployment.control("faults", route="POST /oauth2/token", fault={"malformed_json": True, "after": True})
    page = await browser.submit(await walk_to_consent(deployment, browser, secrets), button="allow")
    assert (page.status_code, page.url.path) == (502, CALLBACK)

    key = await api_key(deployment)
    webhook = f"{deployment.url}/subscriptions/acme-crm"
    for authorization in (basic(key[:-1]), f"Bearer {key}", f"Basic {key}", ""):
        answer = await browser.http.post(webhook, json={}, headers={"Authorization": authorization})
        assert answer.status_code == 401
    answer = await browser.http.post(webhook, content=b'{"type":', headers={"Authorization": basic(key)})
    assert answer.status_code in {400, 415}


async def paste_a_key(deployment: Deployment, operator: Operator, secrets: KnownSecrets) -> None:
    """Make a key by hand and deliver with it."""
    printed = await operator.types("api-keys create", "--account", "acct_northwind", "--json")
    key = json.loads(printed)["api_key"]
    secrets.add("api key", key)
    event = {"type": "identify", "userId": "cust_2", "messageId": "m-3", "timestamp": "2026-01-01T00:00:00Z"}
    webhook = f"{deployment.url}/subscriptions/acme-crm"
    answer = await deployment.http.post(webhook, json=event, headers={"Authorization": basic(key)})
    assert answer.status_code == 202, answer.text


async def collect_from_segment(deployment: Deployment, secrets: KnownSecrets) -> None:
    """What Segment holds now: tokens of installs, and the key in each destination."""
    secrets.add("access token", *await access_tokens(deployment))
    for destination in (await deployment.destinations()).values():
        key = destination["config"]["apiKey"]
        secrets.add("api key", key)
        secrets.add("authorization header", basic(key).removeprefix("Basic "))


async def collect_from_stores(deployment: Deployment, secrets: KnownSecrets) -> None:
    """What only the service knows, opened with its keys."""
    async with open_stores(deployment.settings()) as stores, stores.control.transaction() as session:
        for flow in (await session.exec(select(FlowState))).all():
            if flow.code_verifier_ciphertext is not None:
                place = Place("flow_states", "code_verifier_ciphertext", flow.state_hash)
                secrets.add("code verifier", stores.encryption.decrypt(flow.code_verifier_ciphertext, place))
        for own in (await session.exec(select(ServiceSecret))).all():
            place = Place("service_secrets", "value_ciphertext", own.name)
            clear = stores.encryption.decrypt(own.value_ciphertext, place)
            secrets.add("service secret", clear, base64.b64decode(clear).hex())


def stored(folder: Path) -> dict[str, bytes]:
    """The raw files of both stores, their journals and the service's log."""
    files = [*folder.glob("control.db*"), *folder.glob("events.db*"), folder / "service.log"]
    return {f"file {path.name}": path.read_bytes() for path in sorted(files)}


def assert_really_read(places: Mapping[str, bytes], install: str) -> None:
    """Harmless things have to be found where they belong; otherwise nothing was looked at."""
    assert install.encode() in places["file control.db"]
    assert any(b"m-1" in content for name, content in places.items() if name.startswith("file events.db"))
    assert b"acct_northwind" in places["file service.log"]
    assert b"m-1" in places["output of events show m-1"]
    pages = b"".join(content for place, content in places.items() if place.startswith("page"))
    for text in (b"Send your Segment data to Acme CRM", b"Receiving events", b"Segment wasn&#39;t connected"):
        assert text in pages
    assert any(b"/status/" in content for place, content in places.items() if place.startswith("address"))


@pytest.mark.parametrize("kind", ["database", "log", "page", "address", "output"])
def test_a_planted_secret_is_found(kind: str, tmp_path: Path) -> None:
    secrets = KnownSecrets()
    secrets.add("api key", "ews_4Tn0qkXyZ81bVw")
    planted = {
        "database": in_a_database(tmp_path, "ews_4Tn0qkXyZ81bVw"),
        "log": f"DEBUG sending Authorization: {basic('ews_4Tn0qkXyZ81bVw')}".encode(),
        "page": b'<input value="ews_4Tn0qkXyZ81bVw">',
        "address": b"http://localhost/status/?key=ews%5F4Tn0qkXyZ81bVw".replace(b"%5F", b"_"),
        "output": base64.urlsafe_b64encode(b'{"apiKey": "ews_4Tn0qkXyZ81bVw"}'),
    }
    assert secrets.leaks({f"{kind} 1": planted[kind], "other": b"nothing"}) == [f"api key in {kind} 1"]


def test_only_the_allowed_kind_is_let_through() -> None:
    secrets = KnownSecrets()
    secrets.add("link token", "a-token-of-a-link")
    secrets.add("state", "a-state-of-a-flow")
    places = {"address 1": b"/connect/a-token-of-a-link?state=a-state-of-a-flow", "page 1": b"a-token-of-a-link"}
    assert secrets.leaks(places, allowed=ALLOWED) == ["link token in page 1", "state in address 1"]


@pytest.mark.parametrize("text", ["secret-secret?>", "ÿþ~secret-secret"])
def test_every_alignment_of_base64_is_looked_for(text: str) -> None:
    for before in ("", "a", "ab", "abc"):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(f"{before}{text}:after".encode())
            assert any(form in encoded for form in forms_of(text)), (before, encode)


def in_a_database(folder: Path, value: str) -> bytes:
    """The raw file of a SQLite database with a value in a row."""
    with closing(sqlite3.connect(folder / "planted.db")) as connection:
        connection.execute("CREATE TABLE planted (value TEXT)")
        connection.execute("INSERT INTO planted VALUES (?)", (value,))
        connection.commit()
    return (folder / "planted.db").read_bytes()
