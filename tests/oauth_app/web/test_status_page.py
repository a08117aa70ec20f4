"""The buttons of the status page act on the install as it is when they act, not as it was when they were drawn."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from enable_with_segment.db.control import installs
from enable_with_segment.db.control.tables import InstallStatus
from enable_with_segment.installs.drift import Drift
from tests.oauth_app.conftest import SERVICE, FrontDoor


@pytest.mark.parametrize(
    ("status", "action"), [(InstallStatus.FAILED, "retry"), (InstallStatus.AWAITING_CONFIRMATION, "overwrite")]
)
async def test_a_disconnect_during_the_request_is_not_undone(
    front_door: FrontDoor, status: InstallStatus, action: str
) -> None:
    async with front_door.browser() as browser:
        page = await front_door.connect(browser)
        (install,) = await front_door.installs()
        queued = len(await front_door.queued())
        await _set(front_door, install.id, status)

        async def body() -> AsyncIterator[bytes]:
            await _set(front_door, install.id, InstallStatus.DISCONNECTED)
            yield f"action={action}".encode()

        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await browser.http.post(str(page.url), content=body(), headers=headers)
    assert (answer.status_code, "Disconnected" in answer.text) == (409, True)
    (install,) = await front_door.installs()
    assert install.status is InstallStatus.DISCONNECTED
    assert len(await front_door.queued()) == queued


async def test_a_button_pressed_twice_queues_once(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        page = await front_door.connect(browser)
        (install,) = await front_door.installs()
        queued = len(await front_door.queued())
        await _set(front_door, install.id, InstallStatus.FAILED)
        for _ in range(2):
            await browser.http.post(f"{SERVICE}{page.url.path}", data={"action": "retry"})
    assert len(await front_door.queued()) == queued + 1


async def test_a_drifted_install_whose_key_differs_asks_the_customer(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        page = await front_door.connect(browser)
        (install,) = await front_door.installs()
        async with front_door.database.transaction() as session:
            await installs.set_connection_state(session, install.id, "drifted", reason=Drift.REKEYED.value)
        await _set(front_door, install.id, InstallStatus.AWAITING_CONFIRMATION)
        page = await browser.open(f"{SERVICE}{page.url.path}")
        assert "One question first" in page.text
        await browser.submit(page)
    (install,) = await front_door.installs()
    assert install.status is InstallStatus.PROVISIONING
    assert (await front_door.queued())[-1].payload == {"overwrite": True}


@pytest.mark.parametrize("status", [InstallStatus.NEEDS_RECONNECT, InstallStatus.DISCONNECTED])
async def test_a_connection_that_ended_says_how_to_make_it_anew(front_door: FrontDoor, status: InstallStatus) -> None:
    async with front_door.browser() as browser:
        page = await front_door.connect(browser)
        (install,) = await front_door.installs()
        await _set(front_door, install.id, status)
        page = await browser.open(f"{SERVICE}{page.url.path}")
    assert "To connect again, go back to Acme CRM" in page.text


async def _set(front_door: FrontDoor, install_id: str, status: InstallStatus) -> None:
    async with front_door.database.transaction() as session:
        await installs.set_status(session, install_id, status, now=front_door.clock())
