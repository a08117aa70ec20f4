"""Disconnecting: switched off in Segment, then refused, and nothing secret is left (TK-11, case 58)."""

from __future__ import annotations

from typing import Any

import pytest

from enable_with_segment.db.control import api_keys as stored_keys
from enable_with_segment.db.control import emergency_stop, install_tokens, installs, outbox
from enable_with_segment.db.control.tables import InstallStatus
from enable_with_segment.installs.acts import ActRefused
from enable_with_segment.installs.key_cache import KeyState
from enable_with_segment.installs.record import PROVISION
from enable_with_segment.installs.status import tell_status
from tests.installs.provisioning.stage import HOURS, UPSTREAM, Stage
from tests.segment_api.wire import DESTINATION


async def secrets(stage: Stage, install_id: str) -> tuple[bool, int]:
    """Whether the token is stored, and how many keys are."""
    async with stage.database.transaction() as session:
        token = await install_tokens.get(session, install_id)
        keys = await stored_keys.list_all(session)
    assert token is not None
    return token.access_token_ciphertext is not None, sum(key.key_ciphertext is not None for key in keys)


async def audited(stage: Stage) -> set[str]:
    """What the audit says of the disconnect."""
    told = {"install.disconnect", "api_key.revoke_of_install", "destination.switch_off", "destination.left_on"}
    return {entry.action for entry in await stage.audited()} & told


async def test_tk_11_upstream_is_switched_off_before_key_and_token_are_erased(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    key = await stage.clear_key(install_id)
    at_the_patch: list[tuple[bool, int]] = []

    async def note(route: str) -> None:
        if route.startswith("PATCH"):
            at_the_patch.append(await secrets(stage, install_id))

    stage.wire.meanwhile = note
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert at_the_patch == [(True, 1)], "the token switches off, the key takes what is delivered until then"
    assert await secrets(stage, install_id) == (False, 0)
    assert (await stage.api_keys.look_up(key)).state is KeyState.REVOKED
    assert not stage.destination().enabled
    assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")
    assert await audited(stage) == {"install.disconnect", "api_key.revoke_of_install", "destination.switch_off"}
    assert stage.changes[-1] == ("revoked", "disconnected_by_request")


async def test_tk_11_what_arrives_before_the_switch_off_is_still_taken(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    key = await stage.clear_key(install_id)
    stage.fault("PATCH .*", status=503, body=UPSTREAM)
    await stage.provisioner.disconnect(install_id, actor="operator")
    for answered in (KeyState.USABLE, KeyState.USABLE, KeyState.REVOKED):
        assert (await stage.api_keys.look_up(key)).state is answered
        await stage.worker.run_due()
        stage.clock.advance(minutes=1)


async def test_tk_11_while_segment_is_away_the_install_says_that_it_is_disconnecting(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.fault("PATCH .*", None, status=503, body=UPSTREAM)
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("disconnecting", "disconnect_requested")
    told = tell_status(await stage.row(install_id), now=stage.clock())
    assert (told.heading, told.reconnect) == ("Disconnecting…", False)
    assert [step.mark for step in told.steps] == ["now", "open"]
    assert await secrets(stage, install_id) == (True, 1)


async def test_tk_11_everything_is_erased_even_if_segment_never_answers(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    key = await stage.clear_key(install_id)
    await stage.provisioner.disconnect(install_id, actor="operator")
    stage.fault("PATCH .*", None, status=503, body=UPSTREAM)
    stage.fault("GET .*/token", None, status=503, body=UPSTREAM)
    await stage.worker.run_due()
    assert await secrets(stage, install_id) == (True, 1)
    await stage.work_for(hours=71, at_most_every=HOURS)
    assert await stage.outcome(install_id) == ("disconnecting", "disconnect_requested")
    await stage.work_for(hours=2)
    await is_left_on(stage, install_id, key)


async def test_tk_11_everything_is_erased_when_segment_gives_no_access_any_more(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    key = await stage.clear_key(install_id)
    stage.sandbox.state.world.uninstall((await stage.row(install_id)).install_name)
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert await secrets(stage, install_id) == (True, 1), "not after one answer"
    await stage.work_for(minutes=15)
    await is_left_on(stage, install_id, key)


async def is_left_on(stage: Stage, install_id: str, key: str) -> None:
    """Everything is erased, and whoever looks is told that the destination was not switched off."""
    assert await secrets(stage, install_id) == (False, 0)
    assert (await stage.api_keys.look_up(key)).state is KeyState.REVOKED
    assert await stage.outcome(install_id) == ("disconnected", "destination_left_on")
    assert await audited(stage) == {"install.disconnect", "api_key.revoke_of_install", "destination.left_on"}
    told = tell_status(await stage.row(install_id), now=stage.clock())
    assert told.heading == "Disconnected"
    assert "please switch it off" in told.sentence
    assert [step.mark for step in told.steps] == ["ask"]


async def test_tk_11_a_destination_that_is_gone_counts_as_switched_off(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.sandbox.state.world.destinations.clear()
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 404, "body": '{"error":"not found","code":5}'},
        {"status": 403, "body": '{"error":"insufficient scope","code":7}'},
        {"status": 400, "body": '{"error":"bad","code":3}'},
        {"status": 200, "body": "<html>"},
        {"status": 200, "body": '{"name":"%s","enabled":false}' % DESTINATION},  # noqa: UP031  # a cache's answer
    ],
    ids=["404", "403", "400", "html", "no effect"],
)
async def test_tk_11_one_odd_answer_to_the_switch_off_ends_nothing(stage: Stage, fault: dict[str, Any]) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.fault("PATCH .*", **fault)
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert stage.destination().enabled
    assert (await stage.outcome(install_id))[0] == "disconnecting"
    assert await secrets(stage, install_id) == (True, 1), "its events still arrive"
    assert "We keep trying" in ((await stage.row(install_id)).status_detail or "")
    await stage.work_for(minutes=1)
    assert not stage.destination().enabled
    assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")


async def test_tk_11_a_destination_that_was_left_on_is_switched_off_later(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.fault("PATCH .*", None, status=503, body=UPSTREAM)
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.work_for(hours=80, at_most_every=HOURS)
    assert await stage.outcome(install_id) == ("disconnected", "destination_left_on")
    stage.sandbox.state.faults.clear()
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert not stage.destination().enabled
    assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")
    assert await secrets(stage, install_id) == (False, 0)


async def test_tk_11_disconnecting_twice_ends_as_once(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    await stage.provisioner.disconnect(install_id, actor="operator")
    for _ in range(2):
        with pytest.raises(ActRefused):
            await stage.provisioner.disconnect(install_id, actor="operator")
        await stage.worker.run_due()
        assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")
        assert await secrets(stage, install_id) == (False, 0)
        assert await stage.open_entries(install_id) == []


async def test_tk_16_erasing_everything_in_between_does_not_undo_a_disconnect(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    await stage.provisioner.disconnect(install_id, actor="operator")
    async with stage.database.transaction() as session:
        await emergency_stop.erase_secrets(session, now=stage.clock())
    assert await stage.outcome(install_id) == ("disconnecting", "disconnect_requested")
    await stage.worker.run_due()
    assert not stage.destination().enabled
    assert await secrets(stage, install_id) == (False, 0)
    assert await stage.outcome(install_id) == ("disconnected", "disconnected_by_request")


async def test_connecting_again_before_the_switch_off_keeps_the_connection(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.fault("PATCH .*", status=503, body=UPSTREAM)
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    async with stage.database.transaction() as session:
        await installs.set_status(session, install_id, InstallStatus.PROVISIONING, now=stage.clock())
        await outbox.add(session, PROVISION, install_id, now=stage.clock(), payload={})
    stage.clock.advance(minutes=1)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("connected", None)
    assert await secrets(stage, install_id) == (True, 1)
    assert stage.destination().enabled


async def test_connecting_again_during_the_switch_off_ends_switched_on(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    connected_again = False

    async def connect_again(route: str) -> None:
        nonlocal connected_again
        if route.startswith("PATCH") and not connected_again:
            connected_again = True
            async with stage.database.transaction() as session:
                await installs.set_status(session, install_id, InstallStatus.CONNECTED, now=stage.clock())

    stage.wire.meanwhile = connect_again
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert connected_again
    assert stage.destination().enabled
    assert await stage.outcome(install_id) == ("connected", None)
    assert await secrets(stage, install_id) == (True, 1)


async def test_tk_11_an_install_that_was_never_set_up_keeps_no_token(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.provisioner.disconnect(install_id, actor="operator")
    await stage.worker.run_due()
    assert await secrets(stage, install_id) == (False, 0)
    assert stage.wire.sent == []


async def test_wh_03_a_replaced_key_works_for_its_overlap_and_is_not_kept_in_clear(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    old = await stage.clear_key(install_id)
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.worker.run_due()
    new = await stage.clear_key(install_id)
    stage.api_keys.key_cache._clock = stage.clock
    stage.api_keys.key_cache._monotonic = lambda: stage.clock().timestamp()
    assert await secrets(stage, install_id) == (True, 1)
    stage.clock.advance(hours=23, minutes=59)
    assert (await stage.api_keys.look_up(old)).state is KeyState.USABLE
    assert (await stage.api_keys.look_up(new)).state is KeyState.USABLE
    stage.clock.advance(minutes=1)
    assert (await stage.api_keys.look_up(old)).state is KeyState.REVOKED
    assert (await stage.api_keys.look_up(new)).state is KeyState.USABLE
