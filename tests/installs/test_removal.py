"""An App that is removed in Segment, and everything that only looks like it: nothing is erased from one answer."""

from __future__ import annotations

import logging

import pytest

from enable_with_segment.db.control import install_tokens, installs, outbox
from enable_with_segment.installs.acts import ActRefused
from enable_with_segment.installs.key_cache import KeyState
from enable_with_segment.installs.reconciliation import RECONCILE, queue_checks
from enable_with_segment.installs.refusals import read_together
from enable_with_segment.installs.removal import keep
from enable_with_segment.installs.status import tell_status
from tests.installs.provisioning.stage import CONNECTED, Stage

REFRESH = "GET .*/token"
NOT_FOUND = {"status": 404, "body": '{"error":"install not found","code":5}'}
MAINTENANCE = {"status": 404, "body": "<html>We will be back soon</html>", "content_type": "text/html"}


@pytest.fixture
def stage(sqlite_stage: Stage) -> Stage:
    return sqlite_stage


@pytest.fixture
async def five(stage: Stage) -> list[str]:
    """Five connected installs."""
    ids = await stage.installs(5)
    await stage.worker.run_due()
    assert [await stage.outcome(install_id) for install_id in ids] == [CONNECTED] * 5
    return ids


async def reconcile_all(stage: Stage) -> None:
    """What ``installs reconcile --all`` does, an hour later, so that every token has to be refreshed."""
    stage.clock.advance(hours=1)
    async with stage.database.transaction() as session:
        await queue_checks(session, await installs.watched(session), now=stage.clock())


async def look(stage: Stage, install_id: str) -> None:
    stage.clock.advance(hours=1)
    async with stage.database.transaction() as session:
        await outbox.add(session, RECONCILE, install_id, now=stage.clock())
    await stage.worker.run_due()


async def has_everything(stage: Stage, install_id: str) -> bool:
    """Whether the install's token and a usable key are stored."""
    async with stage.database.transaction() as session:
        token = await install_tokens.get(session, install_id)
    return (
        token is not None
        and token.access_token_ciphertext is not None
        and len(await stage.usable_keys(install_id)) == 1
    )


async def deliver(stage: Stage, install_id: str) -> None:
    """Note a delivery, as the receiver does."""
    async with stage.database.transaction() as session:
        await installs.mark_receiving(session, install_id, now=stage.clock())


async def test_a_maintenance_page_erases_nothing_however_long_it_stays(
    stage: Stage, five: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    stage.fault(REFRESH, None, **MAINTENANCE)
    await reconcile_all(stage)
    await stage.work_for(hours=6)
    assert [await stage.outcome(install_id) for install_id in five] == [CONNECTED] * 5
    assert all([await has_everything(stage, install_id) for install_id in five])
    assert "404 with HTML, not in Segment's form" in caplog.text
    stage.sandbox.state.faults.clear()
    await reconcile_all(stage)
    await stage.work_for(hours=2)
    assert [(await stage.row(install_id)).connection_state for install_id in five] == ["connected"] * 5


async def test_five_of_five_not_found_are_a_fault_of_the_app_and_not_five_removals(
    stage: Stage, five: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    stage.fault(REFRESH, None, **NOT_FOUND)
    await reconcile_all(stage)
    await stage.work_for(days=4)
    assert [await stage.outcome(install_id) for install_id in five] == [CONNECTED] * 5
    assert all([await has_everything(stage, install_id) for install_id in five])
    assert next(record.levelno for record in caplog.records if "together" in record.message) == logging.ERROR
    async with stage.database.transaction() as session:
        told = await read_together(session)
    assert told is not None
    assert (told.refused, told.live) == (5, 5)
    assert "install not found" in told.sentence
    stage.sandbox.state.faults.clear()
    await reconcile_all(stage)
    await stage.work_for(hours=2)
    async with stage.database.transaction() as session:
        assert await read_together(session) is None


async def test_one_removal_among_many_installs_is_believed_when_it_is_said_twice(stage: Stage, five: list[str]) -> None:
    removed = five[0]
    stage.sandbox.state.world.uninstall((await stage.row(removed)).install_name)
    await look(stage, removed)
    assert await stage.outcome(removed) == CONNECTED
    await stage.work_for(minutes=15)
    assert await stage.outcome(removed) == ("needs_reconnect", "removal_reported")
    told = tell_status(await stage.row(removed), now=stage.clock())
    assert "Events that still arrive are taken" in told.sentence
    assert await has_everything(stage, removed)
    await stage.work_for(hours=73)
    assert await stage.outcome(removed) == ("disconnected", "install_removed")
    assert not await has_everything(stage, removed)
    assert all([await has_everything(stage, install_id) for install_id in five[1:]])


async def test_a_key_works_as_long_as_events_arrive(stage: Stage, five: list[str]) -> None:
    removed = five[0]
    key = await stage.clear_key(removed)
    stage.sandbox.state.world.uninstall((await stage.row(removed)).install_name)
    await look(stage, removed)
    for _ in range(5):
        await deliver(stage, removed)
        await stage.work_for(hours=48)
        assert (await stage.api_keys.look_up(key)).state is KeyState.USABLE
    assert await stage.outcome(removed) == ("needs_reconnect", "removal_reported")
    await stage.work_for(hours=23)
    assert await has_everything(stage, removed)
    await stage.work_for(hours=2)
    assert await stage.outcome(removed) == ("disconnected", "install_removed")


async def test_keeping_it_undoes_a_reported_removal(stage: Stage, five: list[str]) -> None:
    removed = five[0]
    key = await stage.clear_key(removed)
    stage.fault(REFRESH, None, **NOT_FOUND)
    await look(stage, removed)
    await stage.work_for(minutes=15)
    assert await stage.outcome(removed) == ("needs_reconnect", "removal_reported")
    stage.sandbox.state.faults.clear()
    async with stage.database.transaction() as session:
        await keep(session, removed, actor="operator:kim", now=stage.clock())
        with pytest.raises(ActRefused):
            await keep(session, removed, actor="operator:kim", now=stage.clock())
    await stage.work_for(days=30)
    assert await stage.outcome(removed) == CONNECTED
    assert await stage.clear_key(removed) == key
    assert [entry.actor for entry in await stage.audited() if entry.action == "install.keep"] == ["operator:kim"]


async def test_a_refresh_that_segment_grants_undoes_a_reported_removal(stage: Stage, five: list[str]) -> None:
    removed = five[0]
    stage.fault(REFRESH, None, **NOT_FOUND)
    await look(stage, removed)
    await stage.work_for(minutes=15)
    assert await stage.outcome(removed) == ("needs_reconnect", "removal_reported")
    stage.sandbox.state.faults.clear()
    await stage.work_for(hours=73)
    assert await stage.outcome(removed) == CONNECTED
    assert await has_everything(stage, removed)


@pytest.mark.parametrize("fault", [MAINTENANCE, {"reset": True}, {"status": 503}, {"malformed_json": True}])
async def test_an_outage_when_segment_is_asked_a_last_time_postpones_the_erasing(
    stage: Stage, five: list[str], fault: dict[str, object]
) -> None:
    removed = five[0]
    stage.sandbox.state.world.uninstall((await stage.row(removed)).install_name)
    await look(stage, removed)
    await stage.work_for(hours=71)
    stage.fault(REFRESH, None, **fault)
    await stage.work_for(hours=12)
    assert await stage.outcome(removed) == ("needs_reconnect", "removal_reported")
    assert await has_everything(stage, removed)
    stage.sandbox.state.faults.clear()
    await stage.work_for(hours=2)
    assert await stage.outcome(removed) == ("disconnected", "install_removed")


async def test_what_is_confirmed_one_by_one_is_still_held_when_all_turn_out_bad(stage: Stage, five: list[str]) -> None:
    """The looks are spread over a day, so the first refusals come alone."""
    stage.fault(REFRESH, None, **NOT_FOUND)
    for install_id in five:
        await look(stage, install_id)
        await stage.work_for(hours=4)
    assert await stage.outcome(five[0]) == ("needs_reconnect", "removal_reported")
    assert await stage.outcome(five[4]) == CONNECTED
    await stage.work_for(days=4)
    assert all([await has_everything(stage, install_id) for install_id in five])


async def test_keeping_what_is_not_ending_does_nothing(stage: Stage, five: list[str]) -> None:
    async with stage.database.transaction() as session:
        with pytest.raises(ActRefused):
            await keep(session, five[0], actor="cli", now=stage.clock())
        with pytest.raises(KeyError):
            await keep(session, "ins_nobody", actor="cli", now=stage.clock())
    assert await stage.open_entries(five[0]) == []
