"""The code exchange under faults: whatever happens to it, the customer ends connected or with a way on that works.

Each kind of fault strikes before or after the exchange took effect in Segment, once or again and again. Then the
customer starts again. A page may only say that the App is installed already if it also gives the true reason.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import flow_states, service_secrets
from enable_with_segment.db.control.tables import InstallStatus
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.demo.browser import Browser
from enable_with_segment.oauth_app.demo.forms import read_forms
from enable_with_segment.segment_sandbox import Sandbox
from tests.installs.provisioning.stage import Stage
from tests.installs.provisioning.test_process_death import Death, MortalDatabase, ProcessDied
from tests.leak_watch import FLOW, LeakWatch
from tests.oauth_app.conftest import SERVICE, FrontDoor, build_front_door
from tests.segment_api.wire import Wire

EXCHANGE = "POST /oauth2/token"
CALLBACK = f"{SERVICE}/auth/segment/callback"
GRANT = {
    "access_token": "first.part",
    "token_type": "bearer",
    "expires_in": 3599,
    "scope": "destination/acme-crm",
    "install_name": "installs/1",
    "workspace_names": ["workspaces/northwind"],
    "source_names": ["workspaces/northwind/sources/web-prod"],
}
HTML = {"body": "<html>We'll be right back</html>", "content_type": "text/html"}
KINDS: dict[str, dict[str, Any]] = {
    "500": {"status": 500, "body": "{}"},
    "500 with an OAuth error": {"status": 500, "body": '{"error":"server_error","status_code":500}'},
    "502 HTML": {"status": 502, **HTML},
    "503 text": {"status": 503, "body": "upstream connect error", "content_type": "text/plain"},
    "429": {"status": 429, "body": "{}", "headers": {"Retry-After": "1"}},
    "408": {"status": 408, "body": ""},
    "404 HTML": {"status": 404, **HTML},
    "302": {"status": 302, "body": "", "headers": {"Location": "https://status.segment.example/"}},
    "200 HTML": {"status": 200, **HTML},
    "200 empty": {"status": 200, "body": ""},
    "malformed JSON": {"malformed_json": True},
    "no token": {"status": 200, "body": json.dumps({**GRANT, "access_token": None})},
    "no name": {"status": 200, "body": json.dumps({**GRANT, "install_name": None})},
    "too large": {"status": 200, "body": json.dumps({**GRANT, "padding": "x" * 70_000})},
    "reset": {"reset": True},
    "time-out": {"delay_seconds": 0.3, "status": 200, "body": "{}"},
}
TRUE_REASON = "answer to an earlier attempt was lost"


@pytest.fixture
async def door(sqlite_database: Database, encryption: EncryptionKeys) -> AsyncIterator[FrontDoor]:
    """The front door, impatient with Segment."""
    async with _door(sqlite_database, encryption, timeout=0.1) as opened:
        yield opened


@asynccontextmanager
async def _door(database: Database, encryption: EncryptionKeys, **options: Any) -> AsyncIterator[FrontDoor]:
    async with database.transaction() as session:
        secret = await service_secrets.ensure(session, encryption, "links", now=utc_now())
    opened = build_front_door(database, encryption, secret, **options)
    async with opened.app.router.lifespan_context(opened.app):
        yield opened


async def _ends_well(door: FrontDoor, browser: Browser) -> str:
    """Start again as the page says; returns how that ended, having tried every way on that was offered."""
    page = await door.connect(browser)
    if page.url.path.startswith("/status/"):
        return "connected"
    assert page.status_code == 409
    assert TRUE_REASON in page.text, page.text
    (form,) = read_forms(page.text, str(page.url))
    made = await browser.http.post(form.action, data=form.filled())
    assert "<code>ews_" in made.text, "a key to paste"
    (install,) = door.sandbox.state.world.installs
    door.sandbox.state.world.uninstall(install)
    page = await door.connect(browser)
    assert page.url.path.startswith("/status/"), "removed in Segment, connected again"
    return "explained"


REPEATED = ("500", "503 text", "reset", "time-out")
"""Some of those after which the exchange is repeated once, so that it matters how often they strike."""


@pytest.mark.parametrize(
    ("kind", "times"), [*((kind, None) for kind in KINDS), *((kind, 1) for kind in REPEATED)], ids=str
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_case_031_every_kind_of_lost_exchange_ends_connected_or_explained(
    door: FrontDoor, leak_watch: LeakWatch, caplog: pytest.LogCaptureFixture, kind: str, after: bool, times: int | None
) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")
    door.fault(EXCHANGE, times=times, after=after, **KINDS[kind])
    async with door.browser() as browser:
        page = await door.connect(browser)
        door.sandbox.state.faults.clear()
        if page.url.path.startswith("/status/"):
            assert (times, after) == (1, False), "the exchange was repeated"
            return
        assert page.status_code in {502, 503}
        assert "start again" in page.text.lower()
        assert "nothing was" not in page.text.lower(), "nobody can tell"
        assert "exchange_lost" in caplog.text or "answer_unreadable" in caplog.text, "the operator sees why"
        assert await door.installs() == []
        made = bool(door.sandbox.state.world.installs)
        assert await _ends_well(door, browser) == ("explained" if made else "connected")
    (install,) = await door.installs()
    assert install.status is InstallStatus.PROVISIONING
    if made:
        alarms = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert any("install_without_token" in record.message for record in alarms)


async def test_an_exchange_that_could_not_be_sent_says_that_nothing_was_connected(
    sqlite_database: Database, encryption: EncryptionKeys
) -> None:
    sandbox = Sandbox()
    wire = Wire(sandbox.app)

    def unreachable(request: httpx.Request) -> httpx.Response | None:
        raise httpx.ConnectError("no route", request=request)

    async with _door(sqlite_database, encryption, sandbox=sandbox, transport=wire) as door, door.browser() as browser:
        wire.before = unreachable
        page = await door.connect(browser)
        assert (page.status_code, "nothing was connected" in page.text) == (503, True)
        wire.before = None
        assert (await door.connect(browser)).url.path.startswith("/status/")
    async with door.database.transaction() as session:
        assert not await flow_states.has_install_without_token(session, account="acct_northwind", component="acme-crm")


@pytest.mark.parametrize("known", [1, 2])
async def test_an_account_with_installs_is_asked_whether_segment_means_the_lost_one(
    door: FrontDoor, leak_watch: LeakWatch, known: int
) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")
    world = door.sandbox.state.world
    async with door.browser() as browser:
        await door.connect(browser)
        (first,) = await door.installs()
        first_name = first.install_name
        kept = world.installs.pop(first_name)  # so that the next consent leads to an exchange
        door.fault(EXCHANGE, reset=True, after=True, times=None)
        await door.connect(browser)
        door.sandbox.state.faults.clear()
        if known == 1:
            world.installs[first_name] = kept
        page = await door.connect(browser, link=await door.link(settings={"region": "eu"}))
        assert (page.status_code, "Which connection do you mean?" in page.text) == (409, True)
        assert "northwind · web-prod" in page.text
        (unchanged,) = await door.installs()
        assert unchanged.settings == {}
        await browser.submit(page, button=first.id)
    (resumed,) = await door.installs()
    assert (resumed.status, resumed.settings) == (InstallStatus.PROVISIONING, {"region": "eu"})


async def test_lost_exchanges_are_remembered_for_ninety_days(door: FrontDoor) -> None:
    async def remembered() -> bool:
        await door.link()
        async with door.client() as http:
            await http.post(await door.link("acct_other"))  # purges on the way
        async with door.database.transaction() as session:
            return await flow_states.has_install_without_token(session, account="acct_northwind", component="acme-crm")

    door.fault(EXCHANGE, reset=True, after=True, times=None)
    async with door.browser() as browser:
        await door.connect(browser)
    assert await remembered()
    door.clock.moved = timedelta(days=89)
    assert await remembered()
    door.clock.moved = timedelta(days=91)
    assert not await remembered()


async def test_a_grant_is_saved_when_the_store_comes_back(
    sqlite_database: Database, encryption: EncryptionKeys, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = Sandbox()
    wire = Wire(sandbox.app)
    away = Death()
    database = MortalDatabase(sqlite_database, away)

    async with _door(database, encryption, sandbox=sandbox, transport=wire) as door, door.browser() as browser:
        failures = iter([OSError("the store is away")] * 2)

        def fails() -> None:
            for failure in failures:
                raise failure

        away.step = fails  # type: ignore[method-assign]
        door.services.flow._exchange._sleep = _no_time  # type: ignore[union-attr]
        original, away.step = away.step, lambda: None  # type: ignore[method-assign]
        wire.after = lambda _: setattr(away, "step", original)
        page = await door.connect(browser)
    assert page.url.path.startswith("/status/")
    assert caplog.text.count("could not be saved yet (OSError)") == 2


async def _no_time(_seconds: float) -> None:
    return


@pytest.mark.parametrize("made_at", ["exchange", "consent"])
async def test_dying_at_any_step_of_the_callback_leaves_a_way_on(
    sqlite_database: Database, encryption: EncryptionKeys, leak_watch: LeakWatch, made_at: str
) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")
    ways: list[str] = []
    for steps in range(60):
        sandbox, death = Sandbox(), Death()
        sandbox.state.set_switches({"install_created_at": made_at})
        wire = Wire(sandbox.app, before=death.before, after=death.after)
        mortal = MortalDatabase(sqlite_database, death)
        account = f"acct_{made_at}_{steps}"
        async with _door(mortal, encryption, sandbox=sandbox, transport=wire) as first, first.browser() as browser:
            consent = await first.to_consent(browser, link=await first.link(account))
            back = await browser.submit(consent, button="allow", stop_before=CALLBACK)
            death.steps_left = steps
            died = False
            try:
                await browser.http.get(back.headers["location"])
            except ProcessDied:
                died = True
            death.steps_left = None
            cookies = browser.http.cookies
        async with _door(sqlite_database, encryption, sandbox=sandbox) as second, second.browser() as browser:
            browser.http.cookies = cookies
            ways.append(await _way_after_death(second, browser, back.headers["location"], account))
        if not died:
            break
    else:
        pytest.fail("the callback never got to its end")
    assert ways[-1] == "connected"
    assert "explained" in ways
    assert len(ways) > 8


async def _way_after_death(door: FrontDoor, browser: Browser, callback: str, account: str) -> str:
    """What a customer comes to who reloads the page, waits, and then starts again."""
    page = await browser.open(callback)
    if page.url.path.startswith("/status/"):
        return "connected"
    assert (page.status_code, "Finishing the connection" in page.text) == (200, True)
    door.clock.moved = timedelta(seconds=61)
    page = await browser.open(callback)
    assert (page.status_code, "answer was lost" in page.text) == (503, True)
    page = await door.connect(browser, link=await door.link(account))
    if page.url.path.startswith("/status/"):
        return "started again"
    assert TRUE_REASON in page.text
    (install,) = door.sandbox.state.world.installs
    door.sandbox.state.world.uninstall(install)
    page = await door.connect(browser, link=await door.link(account))
    assert page.url.path.startswith("/status/")
    return "explained"


async def test_dying_after_the_button_was_pressed_leaves_the_link_to_the_same_browser(
    sqlite_database: Database, encryption: EncryptionKeys
) -> None:
    for steps in range(60):
        sandbox, death = Sandbox(), Death()
        mortal = MortalDatabase(sqlite_database, death)
        async with _door(mortal, encryption, sandbox=sandbox) as first, first.browser() as browser:
            link = await first.link(f"acct_{steps}")
            await browser.open(link)
            death.steps_left, died = steps, False
            try:
                await browser.http.post(link)
            except ProcessDied:
                died = True
            death.steps_left = None
            cookies = browser.http.cookies
        async with _door(sqlite_database, encryption, sandbox=sandbox) as second, second.browser() as browser:
            browser.http.cookies = cookies
            assert (await second.connect(browser, link=link)).url.path.startswith("/status/"), f"after step {steps}"
        if not died:
            return
    pytest.fail("the button never got to its end")


async def test_segment_away_for_six_hours_needs_nobody_and_no_restart(
    door: FrontDoor, encryption: EncryptionKeys
) -> None:
    stage = Stage(door.database, encryption, door.services.api_keys, sandbox=door.sandbox)
    async with door.browser() as browser:
        page = await door.connect(browser)
        stage.clock.now = door.clock()
        door.fault(".*", times=None, status=503, body="maintenance", content_type="text/plain")
        await stage.work_for(hours=3, at_most_every=timedelta(minutes=10))
        shown = await browser.open(str(page.url))
        assert "Segment isn&#39;t answering right now" in shown.text
        (install,) = await door.installs()
        assert (install.status, install.status_reason) == (InstallStatus.PROVISIONING, "segment_unavailable")
        (waiting,) = await stage.open_entries(install.id)
        assert "503" in (waiting.last_error or ""), "the operator sees why"
        await stage.work_for(hours=3, at_most_every=timedelta(minutes=10))
        door.sandbox.state.faults.clear()
        await stage.work_for(minutes=15)
        assert await stage.outcome(install.id) == ("connected", None)
        shown = await browser.open(str(page.url))
        assert "Connected to Segment" in shown.text
    await stage.close()
