"""Reconciliation: what a customer changes in Segment is noticed, told once, and put right when that is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

import pytest
from sqlmodel import select

from enable_with_segment.db.control import api_keys as stored_keys
from enable_with_segment.db.control import outbox
from enable_with_segment.db.control.tables import OutboxEntry
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.drift import Drift, drift_of
from enable_with_segment.installs.key_cache import KeyState
from enable_with_segment.installs.provisioning.decision import HeldKey, held_key
from enable_with_segment.installs.reconciliation import RECONCILE, SPACING, queue_checks
from enable_with_segment.installs.reconciliation_sweep import ReconciliationSweep
from enable_with_segment.installs.tokens import AccessHeldBack, InstallTokens
from enable_with_segment.segment_api.destination import API_KEY_SETTING, Destination
from tests.installs.provisioning.stage import HOURS, Stage
from tests.segment_api.wire import DESTINATION, identity_client

UNAUTHENTICATED = '{"error":"malformed token","code":16}'


@pytest.fixture
async def repairing(database: Database, encryption: EncryptionKeys, api_keys: ApiKeys) -> AsyncIterator[Stage]:
    made = Stage(database, encryption, api_keys, reconcile="repair")
    yield made
    await made.close()


async def connected(stage: Stage) -> str:
    """An install that works, its first turn told."""
    install_id = await stage.install()
    await stage.worker.run_due()
    assert stage.changes == [("connected", None)]
    stage.changes.clear()
    stage.wire.sent.clear()
    return install_id


async def connection(stage: Stage, install_id: str) -> tuple[str | None, str | None]:
    row = await stage.row(install_id)
    return row.connection_state, row.connection_reason


def change(stage: Stage, drift: Drift) -> None:
    """Do to the destination what a customer may do."""
    match drift:
        case Drift.DELETED:
            del stage.sandbox.state.world.destinations[DESTINATION]
        case Drift.DISABLED:
            stage.destination().enabled = False
        case Drift.REKEYED:
            stage.destination().config["apiKey"] = "somebody-elses"


async def test_what_is_as_we_left_it_costs_one_look_and_tells_nobody(stage: Stage) -> None:
    install_id = await connected(stage)
    assert await stage.reconciler.check(install_id) is None
    assert [sent.method for sent in stage.wire.sent] == ["GET"]
    await stage.worker.run_due()
    assert stage.changes == []


@pytest.mark.parametrize("drift", list(Drift))
async def test_drift_is_reported_once_and_nothing_is_written(stage: Stage, drift: Drift) -> None:
    install_id = await connected(stage)
    change(stage, drift)
    for _ in range(2):
        assert await stage.reconciler.check(install_id) is drift
        await stage.worker.run_due()
    assert {sent.method for sent in stage.wire.sent} == {"GET"}
    assert stage.changes == [("drifted", drift.value)]
    assert await connection(stage, install_id) == ("drifted", drift.value)
    assert await stage.outcome(install_id) == ("connected", None)
    assert not (await stage.stored_destination(install_id))["verified"]


@pytest.mark.parametrize("drift", [Drift.DELETED, Drift.DISABLED])
async def test_drift_is_repaired_when_the_policy_says_so(repairing: Stage, drift: Drift) -> None:
    install_id = await connected(repairing)
    change(repairing, drift)
    assert await repairing.reconciler.check(install_id) is drift
    await repairing.worker.run_due()
    assert repairing.destination().enabled
    assert repairing.destination().config["apiKey"] == await repairing.clear_key(install_id)
    assert repairing.changes == [("drifted", drift.value), ("recovered", None)]
    assert await connection(repairing, install_id) == ("connected", None)


async def test_a_repair_asks_before_it_replaces_somebody_elses_key(repairing: Stage) -> None:
    install_id = await connected(repairing)
    change(repairing, Drift.REKEYED)
    await repairing.reconciler.check(install_id)
    await repairing.worker.run_due()
    assert await repairing.outcome(install_id) == ("awaiting_confirmation", "key_differs")
    assert repairing.destination().config["apiKey"] == "somebody-elses"


async def test_a_repair_asks_even_if_the_destination_was_switched_off_as_well(repairing: Stage) -> None:
    install_id = await connected(repairing)
    change(repairing, Drift.REKEYED)
    change(repairing, Drift.DISABLED)
    assert await repairing.reconciler.check(install_id) is Drift.REKEYED
    await repairing.worker.run_due()
    assert await repairing.outcome(install_id) == ("awaiting_confirmation", "key_differs")
    assert not repairing.destination().enabled
    assert repairing.destination().config["apiKey"] == "somebody-elses"
    assert not repairing.wire.of("PATCH")
    await repairing.provisioner.provision(install_id, overwrite=True)
    assert await repairing.outcome(install_id) == ("connected", None)


async def test_a_rotation_that_was_given_up_is_finished_by_the_next_look(stage: Stage) -> None:
    install_id = await connected(stage)
    old = stage.destination().config["apiKey"]
    stage.fault("PATCH .*", None, status=503)
    await stage.provisioner.rotate_key(install_id, actor="operator")
    await stage.work_for(hours=80, at_most_every=HOURS)
    assert await stage.open_entries(install_id) == []
    stage.sandbox.state.faults.clear()
    assert await stage.reconciler.check(install_id) is None, "the key that it holds is ours"
    await stage.worker.run_due()
    assert stage.destination().config["apiKey"] == await stage.clear_key(install_id) != old
    assert stage.changes == []


async def test_an_install_that_failed_is_set_up_by_a_later_look(stage: Stage) -> None:
    stage.fault("POST .*destinations", None, status=503)
    install_id = await stage.install()
    await stage.work_for(hours=80, at_most_every=HOURS)
    assert await stage.outcome(install_id) == ("failed", "segment_unavailable")
    stage.sandbox.state.faults.clear()
    await stage.reconciler.check(install_id)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("connected", None)


async def test_drift_that_somebody_mended_is_noticed_too(stage: Stage) -> None:
    install_id = await connected(stage)
    change(stage, Drift.DISABLED)
    await stage.reconciler.check(install_id)
    await stage.worker.run_due()
    stage.destination().enabled = True
    await stage.reconciler.check(install_id)
    await stage.worker.run_due()
    assert stage.changes == [("drifted", "destination_disabled"), ("recovered", None)]


async def test_a_masked_key_is_no_drift(stage: Stage) -> None:
    stage.sandbox.state.set_switches({"mask_sensitive_settings": True})
    install_id = await connected(stage)
    assert await stage.reconciler.check(install_id) is None


async def look(stage: Stage, install_id: str) -> None:
    """Queue a look as the sweep does, and do what is due."""
    async with stage.database.transaction() as session:
        await outbox.add(session, RECONCILE, install_id, now=stage.clock())
    await stage.worker.run_due()


async def test_tk_11_an_install_removed_in_segment_is_revoked_with_its_keys(stage: Stage) -> None:
    install_id = await connected(stage)
    key = await stage.clear_key(install_id)
    stage.sandbox.state.world.uninstall((await stage.row(install_id)).install_name)
    await look(stage, install_id)
    assert await stage.outcome(install_id) == ("connected", None), "one answer proves nothing"
    await stage.work_for(minutes=15)
    assert await stage.outcome(install_id) == ("needs_reconnect", "removal_reported")
    assert stage.changes == [("failing", "removal_reported")]
    assert (await stage.api_keys.look_up(key)).state is KeyState.USABLE, "what still arrives is taken"
    await stage.work_for(hours=73)
    assert await stage.outcome(install_id) == ("disconnected", "install_removed")
    assert stage.changes == [("failing", "removal_reported"), ("revoked", "install_removed")]
    async with stage.database.transaction() as session:
        rows = await stored_keys.list_all(session)
    assert [(row.key_ciphertext, row.signing_secret_ciphertext) for row in rows] == [(None, None)]
    with pytest.raises(AssertionError):
        await stage.access_token(install_id)
    elsewhere = ApiKeys(stage.database, stage.encryption, stage.api_keys.key_cache._lookup_secret)
    assert (await elsewhere.look_up(key)).state is KeyState.REVOKED


async def test_tk_10_a_token_refused_for_ever_costs_three_calls_and_one_announcement(stage: Stage) -> None:
    install_id = await connected(stage)
    stage.fault("GET .*destinations.*", None, status=401, body=UNAUTHENTICATED)
    await look(stage, install_id)
    for _ in range(2):
        with pytest.raises(AccessHeldBack):
            await stage.reconciler.check(install_id)
    assert [sent.path.rpartition("/")[2] for sent in stage.wire.sent] == ["acme-crm", "token", "acme-crm"]
    assert await stage.outcome(install_id) == ("connected", None), "events still arrive, and it was said once"
    await stage.work_for(minutes=15)
    assert await stage.outcome(install_id) == ("needs_reconnect", "token_rejected")
    assert len(stage.wire.sent) <= 5 * 3, "four or five times in 15 minutes"
    assert stage.changes == [("failing", "token_rejected")]


async def test_tk_10_the_backoff_grows_and_ends_by_itself(stage: Stage) -> None:
    install_id = await connected(stage)
    stage.fault("GET .*destinations.*", None, status=401, body=UNAUTHENTICATED)
    calls = []
    for minutes in (0, 1, 1, 2):
        stage.clock.advance(minutes=minutes)
        stage.wire.sent.clear()
        with suppress(AccessHeldBack):
            await stage.reconciler.check(install_id)
        calls.append(len(stage.wire.sent))
    assert calls == [3, 3, 0, 3]
    await look(stage, install_id)
    await stage.work_for(minutes=10)
    assert await stage.outcome(install_id) == ("needs_reconnect", "token_rejected")
    stage.sandbox.state.faults.clear()
    stage.clock.advance(hours=1)
    await stage.reconciler.check(install_id)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("connected", None)
    assert stage.changes == [("failing", "token_rejected"), ("recovered", None)]


async def test_what_was_changed_while_the_token_failed_is_only_reported_too(stage: Stage) -> None:
    install_id = await connected(stage)
    stage.fault("GET .*destinations.*", None, status=401, body=UNAUTHENTICATED)
    await look(stage, install_id)
    await stage.work_for(minutes=15)
    stage.sandbox.state.faults.clear()
    change(stage, Drift.DISABLED)
    stage.clock.advance(hours=1)
    assert await stage.reconciler.check(install_id) is Drift.DISABLED
    await stage.worker.run_due()
    assert not stage.destination().enabled
    assert await stage.outcome(install_id) == ("connected", None)
    assert stage.changes == [("failing", "token_rejected"), ("drifted", "destination_disabled")]


async def test_a_wrong_client_secret_costs_no_install_its_keys_and_heals_when_it_is_set_right(stage: Stage) -> None:
    install_id = await connected(stage)
    key = await stage.clear_key(install_id)
    wrong = InstallTokens(
        stage.database, stage.encryption, identity_client(stage.wire, client_secret="wrong"), stage.clock
    )
    stage.reconciler._tokens = wrong
    stage.clock.advance(hours=1)
    await look(stage, install_id)
    assert await stage.outcome(install_id) == ("connected", None)
    await stage.work_for(minutes=15)
    assert await stage.outcome(install_id) == ("needs_reconnect", "refresh_refused")
    assert stage.changes == [("failing", "refresh_refused")]
    await stage.work_for(days=30)
    assert (await stage.api_keys.look_up(key)).state is KeyState.USABLE
    stage.reconciler._tokens = stage.tokens
    await look(stage, install_id)
    await stage.work_for(hours=1)
    assert await stage.outcome(install_id) == ("connected", None)
    assert stage.changes == [("failing", "refresh_refused"), ("recovered", None)]


async def test_an_install_at_work_is_left_alone(stage: Stage) -> None:
    install_id = await connected(stage)
    await stage.provisioner.rotate_key(install_id, actor="operator")
    assert await stage.reconciler.check(install_id) is None
    assert stage.wire.sent == []


async def test_the_sweep_spreads_looks_and_takes_turns(stage: Stage) -> None:
    install_id = await connected(stage)
    woken: list[None] = []

    def sweep() -> ReconciliationSweep:
        return ReconciliationSweep(
            stage.database,
            interval=timedelta(hours=24),
            wake=lambda: woken.append(None),
            clock=stage.clock,
            jitter=lambda: 0.5,
        )

    assert await sweep().queue_due() == 0, "a new install gets its own moment"
    stage.clock.advance(hours=12)
    assert await sweep().queue_due() == 1
    assert await sweep().queue_due() == 0, "the other process finds nothing left"
    change(stage, Drift.DISABLED)
    stage.clock.advance(seconds=1)
    await stage.worker.run_due()
    assert await connection(stage, install_id) == ("drifted", "destination_disabled")
    stage.clock.advance(hours=23)
    assert await sweep().queue_due() == 0
    stage.clock.advance(hours=1)
    assert await sweep().queue_due() == 1


async def test_the_sweep_wakes_the_outbox_when_it_has_queued_something(stage: Stage) -> None:
    await connected(stage)
    woken = asyncio.Event()
    sweep = ReconciliationSweep(
        stage.database,
        interval=timedelta(0),
        wake=woken.set,
        clock=stage.clock,
        pause=timedelta(0),
    )
    running = asyncio.create_task(sweep.run())
    await asyncio.wait_for(woken.wait(), 30)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_refusal_that_is_not_about_the_token_changes_nothing(stage: Stage) -> None:
    install_id = await connected(stage)
    stage.fault("GET .*destinations.*", status=403, body='{"error":"insufficient scope","code":7}')
    assert await stage.reconciler.check(install_id) is None
    assert await stage.outcome(install_id) == ("connected", None)
    assert await connection(stage, install_id) == ("connected", None)


async def test_a_key_that_was_revoked_is_not_taken_for_drift(stage: Stage) -> None:
    install_id = await connected(stage)
    (key,) = await stage.usable_keys(install_id)
    async with stage.database.transaction() as session:
        await stage.api_keys.revoke(session, key.id, actor="operator")
    async with stage.database.transaction() as session:
        (revoked,) = await stored_keys.list_all(session)
    assert revoked.key_ciphertext is None
    assert await stage.reconciler.check(install_id) is None
    assert stage.wire.sent == []


async def test_what_was_seen_before_a_rotation_or_a_disconnect_is_not_written_down(stage: Stage) -> None:
    install_id = await connected(stage)
    change(stage, Drift.DISABLED)

    async def disconnected_meanwhile(_: str) -> None:
        stage.wire.meanwhile = None
        await stage.provisioner.disconnect(install_id, actor="operator")

    stage.wire.meanwhile = disconnected_meanwhile
    await stage.reconciler.check(install_id)
    assert await stage.outcome(install_id) == ("disconnecting", "disconnect_requested")
    assert await connection(stage, install_id) == ("connected", None), "nothing of what was seen"
    await stage.worker.run_due()
    assert await connection(stage, install_id) == ("revoked", "disconnected_by_request")
    assert await stage.reconciler.check("ins_nobody") is None


async def test_queued_looks_are_a_second_apart_and_never_double(stage: Stage) -> None:
    now = stage.clock()
    async with stage.database.transaction() as session:
        assert await queue_checks(session, ["a", "b"], now=now) == 2
        assert await queue_checks(session, ["b", "c"], now=now) == 1
        queued = await outbox.open_of_kind(session, RECONCILE)
    assert {install_id: due - now for install_id, due in queued.items()} == {
        "a": SPACING,
        "b": 2 * SPACING,
        "c": 3 * SPACING,
    }


async def test_finished_outbox_entries_are_cleared_after_a_month(stage: Stage) -> None:
    install_id = await connected(stage)
    sweep = ReconciliationSweep(
        stage.database, interval=timedelta(days=300), wake=lambda: None, clock=stage.clock, jitter=lambda: 1.0
    )
    await stage.provisioner.rotate_key(install_id, actor="operator")
    kinds = []
    for days in (30, 1):
        stage.clock.advance(days=days)
        await sweep.queue_due()
        async with stage.database.transaction() as session:
            kinds.append(sorted(entry.kind for entry in (await session.exec(select(OutboxEntry))).all()))
    assert kinds == [["announce", "provision", "rotate_key"], ["rotate_key"]]


@pytest.mark.parametrize(
    ("destination", "drift"),
    [
        (None, Drift.DELETED),
        (Destination("d", True, "", {API_KEY_SETTING: "ours"}), None),
        (Destination("d", False, "", {API_KEY_SETTING: "ours"}), Drift.DISABLED),
        (Destination("d", True, "", {API_KEY_SETTING: "theirs"}), Drift.REKEYED),
        (Destination("d", False, "", {API_KEY_SETTING: "theirs"}), Drift.REKEYED),
        (Destination("d", True, "", {API_KEY_SETTING: "••••••••"}), None),
    ],
)
def test_drift_of_a_destination(destination: Destination | None, drift: Drift | None) -> None:
    key = HeldKey.UNKNOWN if destination is None else held_key(destination, "ours", is_ours=False)
    assert drift_of(destination, key) is drift
