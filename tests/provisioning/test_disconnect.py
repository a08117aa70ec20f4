"""Disconnecting: refused at once, switched off in Segment, and then nothing secret is left (TK-11, case 58)."""

from __future__ import annotations

from db.control import api_keys as stored_keys
from db.control import install_tokens
from subscriptions.key_recognition import KeyState
from tests.provisioning.stage import UPSTREAM, Stage


async def secrets(stage: Stage, install_id: str) -> tuple[bool, int]:
    """Whether the token is stored, and how many keys are."""
    async with stage.database.transaction() as session:
        token = await install_tokens.get(session, install_id)
        keys = await stored_keys.list_all(session)
    assert token is not None
    return token.access_token_ciphertext is not None, sum(key.key_ciphertext is not None for key in keys)


async def test_tk_11_upstream_is_switched_off_before_the_token_is_erased(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    key = await stage.clear_key(install_id)
    at_the_patch: list[tuple[bool, int]] = []

    async def note(route: str) -> None:
        if route.startswith("PATCH"):
            at_the_patch.append(await secrets(stage, install_id))

    stage.wire.meanwhile = note
    await stage.provisioner.disconnect(install_id, actor="operator")
    assert (await stage.api_keys.look_up(key)).state is KeyState.REVOKED
    await stage.worker.run_due()
    assert at_the_patch == [(True, 0)], "the key went at once, the token is what switches off"
    assert await secrets(stage, install_id) == (False, 0)
    assert not stage.destination().enabled
    assert "destination.switch_off" in {entry.action for entry in await stage.audited()}


async def test_tk_11_the_token_is_erased_even_if_segment_never_answers(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    await stage.provisioner.disconnect(install_id, actor="operator")
    stage.fault("PATCH .*", None, status=503, body=UPSTREAM)
    stage.fault("GET .*/token", None, status=503, body=UPSTREAM)
    await stage.worker.run_due()
    assert await secrets(stage, install_id) == (True, 0)
    stage.clock.advance(hours=25)
    await stage.worker.run_due()
    assert await secrets(stage, install_id) == (False, 0)
    assert "destination.left_on" in {entry.action for entry in await stage.audited()}


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
    stage.api_keys.recognition._clock = stage.clock
    stage.api_keys.recognition._monotonic = lambda: stage.clock().timestamp()
    assert await secrets(stage, install_id) == (True, 1)
    stage.clock.advance(hours=23, minutes=59)
    assert (await stage.api_keys.look_up(old)).state is KeyState.USABLE
    assert (await stage.api_keys.look_up(new)).state is KeyState.USABLE
    stage.clock.advance(minutes=1)
    assert (await stage.api_keys.look_up(old)).state is KeyState.REVOKED
    assert (await stage.api_keys.look_up(new)).state is KeyState.USABLE
