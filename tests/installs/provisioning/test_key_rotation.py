"""A key replaced or taken back: rotation and disconnecting (contract cases 58 and 59)."""

from __future__ import annotations

import pytest

from enable_with_segment.db.control import api_keys as stored_keys
from enable_with_segment.db.control import installs
from enable_with_segment.db.control.tables import InstallStatus
from enable_with_segment.installs.acts import ActRefused
from enable_with_segment.installs.key_cache import KeyState
from tests.installs.provisioning.stage import CONNECTED, HOURS, ONE, UPSTREAM, Stage
from tests.segment_api.wire import DESTINATION


async def test_disconnecting_while_it_is_switched_on_ends_switched_off(stage: Stage) -> None:
    install_id = await stage.install()
    pressed = False

    async def provision_then(sent_route: str) -> None:
        nonlocal pressed
        if not pressed and sent_route.startswith("POST"):
            pressed = True
            await stage.provisioner.disconnect(install_id, actor="account:northwind")

    stage.wire.meanwhile = provision_then
    await stage.worker.run_due()
    await stage.worker.run_due()
    assert pressed
    assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")
    assert not stage.destination().enabled


async def test_case_058_disconnect_switches_off_and_revokes(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    key = await stage.clear_key(install_id)
    await stage.provisioner.disconnect(install_id, actor="account:northwind")
    assert await stage.outcome(install_id) == ("disconnecting", "disconnect_requested")
    await stage.worker.run_due()
    assert (await stage.api_keys.look_up(key)).state is KeyState.REVOKED
    assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")
    (patch,) = stage.wire.of("PATCH")
    assert patch.json == {
        "destination": {"name": DESTINATION, "enabled": False},
        "update_mask": {"paths": ["destination.enabled"]},
    }
    assert not stage.destination().enabled
    assert stage.destination().config["apiKey"] == key
    with pytest.raises(AssertionError):
        await stage.access_token(install_id)


async def test_case_058_disconnect_may_delete(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    await stage.provisioner.disconnect(install_id, delete=True, actor="operator")
    await stage.worker.run_due()
    assert stage.wire.routes()[-2:] == [f"DELETE {ONE}", f"GET {ONE}"]
    assert not stage.has_destination()


async def test_disconnect_waits_out_an_outage(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.fault("PATCH .*", status=503, body=UPSTREAM)
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert stage.destination().enabled
    stage.clock.advance(minutes=1)
    await stage.worker.run_due()
    assert not stage.destination().enabled


async def test_a_disconnected_install_is_not_provisioned(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert not stage.has_destination()
    assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")


async def test_connecting_again_after_a_disconnect_mints_a_new_key(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    first = await stage.clear_key(install_id)
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    async with stage.database.transaction() as session:
        await installs.set_status(session, install_id, InstallStatus.PROVISIONING, now=stage.clock())
    await stage.provisioner.provision(install_id)
    assert await stage.outcome(install_id) == CONNECTED
    assert stage.destination().enabled
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id) != first


async def test_case_059_rotation_overlaps_from_when_segment_has_the_new_key(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    old = await stage.clear_key(install_id)
    stage.fault("PATCH .*", status=503, body=UPSTREAM)
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.worker.run_due()
    assert len(await stage.usable_keys(install_id)) == 2, "the old key has no end while Segment still sends it"
    stage.clock.advance(minutes=1)
    await stage.worker.run_due()
    new = await stage.clear_key(install_id)
    assert stage.destination().config["apiKey"] == new != old
    assert await stage.outcome(install_id) == CONNECTED
    async with stage.database.transaction() as session:
        (replaced,) = [key for key in await stored_keys.list_all(session) if key.expires_at is not None]
    assert replaced.expires_at is not None
    assert (replaced.expires_at - stage.clock()).total_seconds() == 24 * 3600


@pytest.mark.parametrize("masked", [False, True])
async def test_case_059_rotation_never_asks_about_our_own_key(stage: Stage, masked: bool) -> None:
    stage.sandbox.state.set_switches({"mask_sensitive_settings": masked})
    install_id = await stage.install()
    await stage.worker.run_due()
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id)


REFUSED = {"status": 400, "body": '{"error":"invalid value","code":3}'}
MAINTENANCE = {"status": 403, "body": "<html>Maintenance</html>", "content_type": "text/html"}


@pytest.mark.parametrize("fault", [REFUSED, MAINTENANCE], ids=["refused", "maintenance"])
async def test_case_059_a_rotation_that_segment_refuses_for_hours_is_not_dropped(
    stage: Stage, fault: dict[str, object]
) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    old = await stage.clear_key(install_id)
    stage.fault("PATCH .*", None, **fault)
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.work_for(hours=30, at_most_every=HOURS)
    assert len(await stage.usable_keys(install_id)) == 2
    assert (await stage.api_keys.look_up(old)).state is KeyState.USABLE
    stage.sandbox.state.faults.clear()
    await stage.work_for(hours=1)
    assert await stage.outcome(install_id) == CONNECTED
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id) != old


async def test_case_059_a_rotation_that_was_given_up_goes_on_with_its_key(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.fault("PATCH .*", None, status=503, body=UPSTREAM)
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.work_for(hours=80, at_most_every=HOURS)
    assert await stage.open_entries(install_id) == []
    minted = {key.id for key in await stage.usable_keys(install_id)}
    assert len(minted) == 2
    stage.sandbox.state.faults.clear()
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.worker.run_due()
    (held,) = await stage.usable_keys(install_id)
    assert held.id in minted
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id)


async def test_rotation_of_an_install_without_a_destination_is_refused(stage: Stage) -> None:
    with pytest.raises(ActRefused):
        await stage.provisioner.rotate_key(await stage.install(), actor="operator")


async def test_case_040_an_uninstalled_install_ends_disconnected(stage: Stage) -> None:
    install_id = await stage.install()
    stage.sandbox.state.world.uninstall((await stage.row(install_id)).install_name)
    await stage.work_for(minutes=15)
    assert await stage.outcome(install_id) == ("needs_reconnect", "removal_reported")
    assert len(stage.wire.sent) <= 12
    await stage.work_for(hours=73, at_most_every=HOURS)
    assert await stage.outcome(install_id) == ("disconnected", "install_removed")
    assert len(stage.wire.sent) <= 13
    assert await stage.open_entries(install_id) == []
