"""Segment says that the App is installed already: which install that is, and whose settings hold (contract 2.8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import text

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import audit, install_tokens, installs, service_secrets
from enable_with_segment.db.control.install_tokens import Refusal
from enable_with_segment.db.control.tables import Install, InstallStatus
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.reasons import Reason
from enable_with_segment.installs.record import PROVISION, may_be_meant
from enable_with_segment.oauth_app.demo.browser import Browser
from enable_with_segment.oauth_app.demo.forms import read_forms
from tests.leak_watch import FLOW, LeakWatch
from tests.oauth_app.conftest import FrontDoor, build_front_door
from tests.rows import an_install


async def _connected(door: FrontDoor, browser: Browser, **link: object) -> Install:
    await door.connect(browser, link=await door.link(**link))  # type: ignore[arg-type]
    return (await door.installs())[0]


async def _set(door: FrontDoor, install_id: str, status: InstallStatus, reason: Reason | None = None) -> None:
    async with door.database.transaction() as session:
        await installs.set_status(
            session, install_id, status, now=door.clock(), reason=None if reason is None else reason.value
        )


async def _another(door: FrontDoor, like: Install, number: int, **values: object) -> Install:
    """A further install of the account, in a workspace of its own."""
    fields = like.model_dump() | {
        "id": f"ins_{number}",
        "install_name": f"installs/90{number}",
        "workspace_name": f"workspaces/w{number}",
        "source_name": f"workspaces/w{number}/sources/web",
        "created_at": like.created_at + timedelta(seconds=number),
    }
    async with door.database.transaction() as session:
        install = Install(**(fields | values))
        session.add(install)
    return install


@pytest.fixture
async def postgres_door(postgresql_url: str, encryption: EncryptionKeys) -> AsyncIterator[FrontDoor]:
    """The front door on PostgreSQL, where transactions run beside each other."""
    database = Database.open(postgresql_url)
    async with database.transaction() as session:
        secret = await service_secrets.ensure(session, encryption, "links", now=utc_now())
    door = build_front_door(database, encryption, secret)
    try:
        async with door.app.router.lifespan_context(door.app):
            yield door
    finally:
        await database.close()


async def test_case_015_the_settings_of_the_newest_link_hold(front_door_on_both: FrontDoor) -> None:
    door = front_door_on_both
    async with door.browser() as browser:
        await _connected(door, browser, settings={"region": "us"})
        await _connected(door, browser, settings={"region": "eu"})
        assert [install.settings for install in await door.installs()] == [{"region": "eu"}]
        install = await _connected(door, browser)
    assert install.settings == {"region": "eu"}, "a link without settings leaves them"
    assert (install.status, len(await door.queued())) == (InstallStatus.PROVISIONING, 3)


async def test_case_015_a_reconnect_brings_its_settings_along(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        first = await _connected(front_door, browser, settings={"region": "us"})
        await _another(front_door, first, 1)
        link = await front_door.link(settings={"region": "eu"}, reconnects=first.id)
        page = await front_door.connect(browser, link=link)
    assert page.url.path.startswith("/status/")
    stored = {install.id: install.settings for install in await front_door.installs()}
    assert stored == {first.id: {"region": "eu"}, "ins_1": {"region": "us"}}


async def test_case_015_which_of_several_installs_is_meant_is_asked_and_nothing_is_changed_before(
    front_door_on_both: FrontDoor, leak_watch: LeakWatch
) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")  # a field of the form that chooses
    door = front_door_on_both
    async with door.browser() as browser:
        first = await _connected(door, browser, settings={"region": "us"})
        await _another(door, first, 1)
        before, queued = await door.installs(), await door.queued()
        for settings in ({"region": "eu"}, {"region": "us"}, {}):
            page = await door.connect(browser, link=await door.link(settings=settings))
            assert page.status_code == 409
            assert "Which connection do you mean?" in page.text
            assert [name in page.text for name in ("northwind", "web-prod", "w1")] == [True] * 3
            again = await browser.open(str(page.url))
            assert f'value="{first.id}"' in again.text, "after a reload, too"
        assert await door.installs() == before
        assert await door.queued() == queued


async def test_case_015_the_disconnected_one_of_two_is_resumed_when_the_customer_says_so(
    front_door_on_both: FrontDoor, leak_watch: LeakWatch
) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")
    door = front_door_on_both
    async with door.browser() as browser:
        first = await _connected(door, browser, settings={"region": "us"})
        live = await _another(door, first, 1, status=InstallStatus.RECEIVING)
        await _set(door, first.id, InstallStatus.DISCONNECTED, Reason.DISCONNECTED_BY_REQUEST)
        page = await door.connect(browser, link=await door.link(settings={"region": "eu"}))
        chosen = await browser.submit(page, button=first.id)
        assert chosen.url.path.startswith("/status/")
        assert (await browser.submit(page, button=first.id)).url.path.startswith("/status/"), "pressed twice"
    stored = {install.id: install for install in await door.installs()}
    assert (stored[first.id].status, stored[first.id].settings) == (InstallStatus.PROVISIONING, {"region": "eu"})
    assert (stored[live.id].status, stored[live.id].settings) == (InstallStatus.RECEIVING, {"region": "us"})
    assert [entry.install_id for entry in await door.queued()] == [first.id] * 2


async def test_case_015_only_an_install_of_the_account_can_be_chosen_and_only_in_the_same_browser(
    front_door: FrontDoor, leak_watch: LeakWatch
) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")
    leak_watch.allow(FLOW, "answer to POST /auth/segment/choose")
    async with front_door.browser() as browser, front_door.browser() as stranger:
        first = await _connected(front_door, browser)
        await _another(front_door, first, 1)
        other = await _another(front_door, first, 2, account="acct_contoso")
        page = await front_door.connect(browser)
        assert other.id not in page.text
        before, queued = await front_door.installs(), await front_door.queued()
        (form,) = [form for form in read_forms(page.text, str(page.url)) if form.action.endswith("/choose")]
        for install_id in (other.id, "ins_nobody", ""):
            refused = await browser.http.post(form.action, data=form.filled(install=install_id))
            assert (refused.status_code, first.id in refused.text) == (409, True), "asked again"
        assert (await stranger.http.post(form.action, data=form.filled(install=first.id))).status_code == 400
        headers = {"Sec-Fetch-Site": "cross-site"}
        forged = await browser.http.post(form.action, data=form.filled(install=first.id), headers=headers)
        assert forged.status_code == 403
    assert await front_door.installs() == before
    assert await front_door.queued() == queued


async def test_case_015_none_of_them_may_be_meant_and_a_key_can_be_pasted(
    front_door: FrontDoor, leak_watch: LeakWatch
) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")
    async with front_door.browser() as browser:
        first = await _connected(front_door, browser)
        await _another(front_door, first, 1)
        page = await front_door.connect(browser)
        (form,) = [form for form in read_forms(page.text, str(page.url)) if form.action.endswith("/manual-key")]
        made = await browser.http.post(form.action, data=form.filled())
    assert "<code>ews_" in made.text


async def test_case_015_an_install_that_was_disconnected_here_is_taken_up_again(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        install = await _connected(front_door, browser)
        await _set(front_door, install.id, InstallStatus.DISCONNECTED, Reason.DISCONNECTED_BY_REQUEST)
        async with front_door.database.transaction() as session:
            await install_tokens.forget(session, install.id)
        again = await _connected(front_door, browser)
    assert (again.id, again.status, again.status_reason) == (install.id, InstallStatus.PROVISIONING, None)
    assert (again.disconnected_at, [entry.kind for entry in await front_door.queued()]) == (None, [PROVISION] * 2)


async def test_case_015_a_token_that_was_refused_lately_is_asked_for_at_once(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        install = await _connected(front_door, browser)
        async with front_door.database.transaction() as session:
            later = front_door.clock() + timedelta(hours=1)
            refusal = Refusal("token_rejected", front_door.clock(), "malformed token")
            await install_tokens.note_refused(session, install.id, refusal, failures=9, retry_at=later)
        await _connected(front_door, browser)
    async with front_door.database.transaction() as session:
        token = await install_tokens.get(session, install.id)
        (entry,) = await audit.list_newest(session, action="install.resume")
    assert token is not None
    assert (token.retry_at, token.refused_since, token.expires_at <= front_door.clock()) == (None, None, True)
    assert (entry.subject, entry.actor) == (install.id, "account:acct_northwind")


async def test_case_016_an_install_that_was_removed_in_segment_is_not_the_one(
    front_door: FrontDoor, leak_watch: LeakWatch
) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")  # a field of the form that asks for the key
    async with front_door.browser() as browser:
        install = await _connected(front_door, browser)
        await _set(front_door, install.id, InstallStatus.DISCONNECTED, Reason.INSTALL_REMOVED)
        page = await front_door.connect(browser)
    assert page.status_code == 409
    assert "already connected to this workspace" in page.text


async def test_case_016_what_is_found_out_meanwhile_counts(postgres_door: FrontDoor, leak_watch: LeakWatch) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")
    door = postgres_door
    async with door.browser() as browser:
        install = await _connected(door, browser)
        async with door.database.transaction() as session:
            await installs.lock(session, install.id)
            coming = asyncio.create_task(door.connect(browser, link=await door.link()))
            while not coming.done():
                if await _somebody_waits(door.database):
                    break
                await asyncio.sleep(0.01)
            await installs.set_status(
                session,
                install.id,
                InstallStatus.DISCONNECTED,
                now=door.clock(),
                reason=Reason.INSTALL_REMOVED.value,
            )
        page = await coming
    assert page.status_code == 409
    (left,) = await door.installs()
    assert (left.status, left.status_reason) == (InstallStatus.DISCONNECTED, Reason.INSTALL_REMOVED.value)


async def _somebody_waits(database: Database) -> bool:
    question = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with database.engine.connect() as connection:
        return bool((await connection.execute(text(question))).scalar_one())


def test_every_install_may_be_meant_but_those_that_were_removed_in_segment() -> None:
    def of(name: str, status: InstallStatus, reason: Reason | None = None) -> Install:
        return an_install(name, status=status, status_reason=None if reason is None else reason.value)

    live, lost = of("live", InstallStatus.RECEIVING), of("lost", InstallStatus.NEEDS_RECONNECT)
    ended = of("ended", InstallStatus.DISCONNECTED, Reason.DISCONNECTED_BY_REQUEST)
    ending = of("ending", InstallStatus.DISCONNECTING, Reason.DISCONNECT_REQUESTED)
    removed = of("removed", InstallStatus.DISCONNECTED, Reason.INSTALL_REMOVED)
    assert may_be_meant([ended, live, removed, lost]) == [ended, live, lost]
    assert may_be_meant([removed, ending, ended]) == [ending, ended]
    assert may_be_meant([removed]) == []
