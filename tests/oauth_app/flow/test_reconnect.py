"""Connecting again: the same workspace and source, or nothing (OA-20)."""

from __future__ import annotations

import pytest
from sqlmodel import select
from starlette.requests import Request

from enable_with_segment.db.control import install_tokens, installs
from enable_with_segment.db.control.tables import Install, InstallStatus
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.connect_links import ReconnectRefused
from enable_with_segment.installs.drift import SENTENCES, Drift
from enable_with_segment.oauth_app.flow.failures import FailureReason
from enable_with_segment.oauth_app.flow.outcomes import FlowFailed
from tests.oauth_app.conftest import SERVICE, FrontDoor, build_front_door

WEB = "workspaces/northwind/sources/web-prod"


async def _lost_install(door: FrontDoor) -> Install:
    """An install whose access Segment withdrew, as the customer finds it."""
    async with door.browser() as browser:
        await door.connect(browser, link=await door.link(settings={"region": "eu"}))
    (install,) = await door.installs()
    door.sandbox.state.world.uninstall(install.install_name)
    async with door.database.transaction() as session:
        await installs.set_status(session, install.id, InstallStatus.NEEDS_RECONNECT, now=door.clock())
    (lost,) = await door.installs()
    return lost


async def _token(door: FrontDoor, install_id: str) -> tuple[str | None, int]:
    async with door.database.transaction() as session:
        row = await install_tokens.get(session, install_id)
    assert row is not None
    return row.access_token_ciphertext, row.generation


async def test_oa_20_the_same_source_renews_the_install_and_keeps_its_settings(front_door_on_both: FrontDoor) -> None:
    door = front_door_on_both
    lost = await _lost_install(door)
    before = await _token(door, lost.id)
    async with door.browser() as browser:
        consent = await door.to_consent(browser, link=await door.link(reconnects=lost.id))
        page = await browser.submit(consent, button="allow", workspace="workspaces/northwind", source=WEB)
    assert page.status_code == 200
    (renewed,) = await door.installs()
    assert (renewed.id, renewed.status, renewed.settings) == (lost.id, InstallStatus.PROVISIONING, {"region": "eu"})
    assert renewed.install_name != lost.install_name
    after = await _token(door, lost.id)
    assert after[0] != before[0]
    assert after[1] == before[1] + 1


@pytest.mark.parametrize("other", ["another source", "another workspace"])
async def test_oa_20_anything_else_is_refused_and_changes_nothing(front_door_on_both: FrontDoor, other: str) -> None:
    door = front_door_on_both
    lost = await _lost_install(door)
    world, now = door.sandbox.state.world, door.sandbox.state.now()
    if other == "another workspace":
        workspace = world.add_workspace("northwind-labs", "Northwind Labs", now)
        workspace.owners.add("owner@northwind.example")
        chosen = world.add_source(workspace, "web-prod", now)
    else:
        chosen = world.add_source(world.workspaces["workspaces/northwind"], "another", now)
    before, queued = await _token(door, lost.id), await door.queued()
    async with door.browser() as browser:
        consent = await door.to_consent(browser, link=await door.link(reconnects=lost.id))
        page = await browser.submit(consent, button="allow", workspace=chosen.workspace, source=chosen.name)
    assert page.status_code == 409
    assert "another workspace or source" in page.text
    async with door.database.transaction() as session:
        (untouched,) = (await session.exec(select(Install))).all()
    assert untouched.model_dump() == lost.model_dump()
    assert await _token(door, lost.id) == before
    assert await door.queued() == queued


async def test_oa_20_install_already_exists_goes_on_with_the_install_that_was_meant(front_door: FrontDoor) -> None:
    door = front_door
    lost = await _lost_install(door)
    door.sandbox.state.world.add_install(
        next(iter(door.sandbox.state.world.apps.values())),
        "workspaces/northwind",
        WEB,
        "owner@northwind.example",
        door.sandbox.state.now(),
    )
    async with door.browser() as browser:
        consent = await door.to_consent(browser, link=await door.link(reconnects=lost.id))
        page = await browser.submit(consent, button="allow", workspace="workspaces/northwind", source=WEB)
    assert page.status_code == 200
    assert [install.status for install in await door.installs()] == [InstallStatus.PROVISIONING]


async def test_oa_20_oa_22_an_install_of_another_account_cannot_be_reconnected(front_door: FrontDoor) -> None:
    lost = await _lost_install(front_door)
    with pytest.raises(ReconnectRefused):
        await front_door.link("acct_contoso", reconnects=lost.id)
    assert front_door.services.flow is not None
    refused = await front_door.services.flow.starts.start("acct_contoso", reconnects=lost.id)
    assert refused == FlowFailed(FailureReason.OTHER_ACCOUNT)


async def test_oa_20_a_session_reconnects_its_own_install_from_the_status_page(
    sqlite_database: Database, encryption: EncryptionKeys
) -> None:
    signed_in = ["acct_northwind"]

    async def session_hook(_: Request) -> str | None:
        return signed_in[0]

    door = build_front_door(sqlite_database, encryption, b"s" * 32, partner_session=session_hook)
    async with door.app.router.lifespan_context(door.app):
        lost = await _lost_install(door)
        status = door.services.status_links.make(lost.id, now=door.clock())
        async with door.browser() as browser:
            page = await browser.open(f"{SERVICE}/status/{status}")
            assert f'href="/auth/segment?reconnect={lost.id}"' in page.text
            signed_in[0] = "acct_contoso"
            refused = await browser.open(f"{SERVICE}/auth/segment?reconnect={lost.id}")
            assert refused.status_code == 403
            signed_in[0] = "acct_northwind"
            page = await browser.open(f"{SERVICE}/auth/segment?reconnect={lost.id}")
            page = await browser.submit(page, button="owner@northwind.example")
            page = await browser.submit(page, button="allow", workspace="workspaces/northwind", source=WEB)
        assert page.status_code == 200
        (renewed,) = await door.installs()
    assert (renewed.id, renewed.status) == (lost.id, InstallStatus.PROVISIONING)


@pytest.mark.parametrize("drift", list(Drift))
async def test_the_status_page_says_what_was_changed_in_segment(front_door: FrontDoor, drift: Drift) -> None:
    async with front_door.browser() as browser:
        await front_door.connect(browser)
        (install,) = await front_door.installs()
        async with front_door.database.transaction() as session:
            await installs.set_status(session, install.id, InstallStatus.RECEIVING, now=front_door.clock())
            await installs.set_connection_state(session, install.id, "drifted", reason=drift.value)
        status = front_door.services.status_links.make(install.id, now=front_door.clock())
        page = await browser.open(f"{SERVICE}/status/{status}")
        queued = len(await front_door.queued())
        assert "Something was changed in Segment" in page.text
        assert SENTENCES[drift] in page.text
        assert "Set it up again" in page.text
        page = await browser.submit(page)
    assert len(await front_door.queued()) == queued + 1
    assert "Setting up the connection" in page.text, "and the page keeps itself up to date"
