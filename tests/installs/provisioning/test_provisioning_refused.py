"""Provisioning when Segment refuses, fails or is away (contract cases 39 to 41 and 54 to 57)."""

from __future__ import annotations

import logging

import pytest

from enable_with_segment.db.control import outbox
from enable_with_segment.installs.record import PROVISION
from enable_with_segment.segment_api.errors import InvalidAnswer, RateLimited, SegmentUnavailable
from tests.installs.provisioning.stage import CONNECTED, HOURS, ONE, UPSTREAM, Stage
from tests.segment_api.wire import SOURCE


@pytest.mark.parametrize("refusal", [(403, 7), (401, 16), (404, 5), (503, None)])
async def test_a_catalog_that_cannot_be_read_stops_nothing(stage: Stage, refusal: tuple[int, int | None]) -> None:
    status, code = refusal
    body = UPSTREAM if code is None else f'{{"error":"no","code":{code}}}'
    stage.fault("GET /v1beta/catalog/.*", None, status=status, body=body)
    install_id = await stage.install(settings={"region": "eu"})
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED
    assert stage.destination().config["region"] == "eu"
    assert not stage.wire.of("GET", "/token")


async def test_a_first_look_that_fails_with_code_13_does_not_stop_the_create(stage: Stage) -> None:
    stage.fault(f"GET {ONE}", status=500, body='{"error":"internal","code":13}')
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED


async def test_an_outage_during_a_later_look_leaves_a_working_install_alone(stage: Stage) -> None:
    install_id = await stage.install()
    await stage.worker.run_due()
    stage.fault(".*destinations.*", None, status=503, body=UPSTREAM)
    async with stage.database.transaction() as session:
        await outbox.add(session, PROVISION, install_id, now=stage.clock())
    await stage.work_for(hours=73, at_most_every=HOURS)
    assert await stage.open_entries(install_id) == []
    assert await stage.outcome(install_id) == CONNECTED


async def test_case_054_a_scope_that_is_too_small_is_an_alarm(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.fault("(GET|POST) .*destinations.*", None, status=403, body='{"error":"insufficient scope","code":7}')
    install_id = await stage.install()
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("provisioning", "scope_too_small")
    await stage.work_for(hours=3)
    assert await stage.outcome(install_id) == ("failed", "scope_too_small")
    levels = [record.levelno for record in caplog.records if "provisioning of" in record.message]
    assert levels == [logging.WARNING, logging.ERROR], "once, however often it is refused"
    stage.sandbox.state.faults.clear()
    await stage.work_for(hours=1)
    assert await stage.outcome(install_id) == CONNECTED, "the scope was put right"


async def test_case_055_a_source_that_is_gone_asks_to_connect_again(stage: Stage) -> None:
    install_id = await stage.install()
    del stage.sandbox.state.world.sources[SOURCE]
    await stage.work_for(seconds=30)
    assert await stage.outcome(install_id) == ("needs_reconnect", "source_gone")
    assert "“web-prod” no longer exists" in ((await stage.row(install_id)).status_detail or "")


async def test_case_056_429_waits_out_the_minute(stage: Stage) -> None:
    stage.fault("GET .*destinations.*", status=429, body='{"error":"rate limit exceeded","code":8}')
    install_id = await stage.install()
    await stage.worker.run_due()
    (entry,) = await stage.open_entries(install_id)
    assert (entry.available_at - stage.clock()).total_seconds() >= 60
    assert await stage.outcome(install_id) == ("provisioning", "segment_unavailable")
    assert await stage.worker.run_due() == 0
    stage.clock.advance(seconds=61)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED


async def test_case_056_provision_raises_what_the_outbox_waits_for(stage: Stage) -> None:
    stage.fault("GET .*destinations.*", status=429, body='{"error":"rate limit exceeded","code":8}')
    install_id = await stage.install()
    with pytest.raises(RateLimited):
        await stage.provisioner.provision(install_id)


async def test_case_057_503_in_plain_text_is_tried_again(stage: Stage) -> None:
    stage.fault("POST /v1beta/.*", 2, status=503, body=UPSTREAM, content_type="text/plain")
    install_id = await stage.install()
    for _ in range(3):
        await stage.worker.run_due()
        stage.clock.advance(minutes=1)
    assert await stage.outcome(install_id) == CONNECTED
    assert len(stage.wire.of("POST")) == 3


async def test_case_057_an_outage_of_three_days_is_given_up_and_shown(stage: Stage) -> None:
    stage.fault(".*destinations.*", None, status=503, body=UPSTREAM, content_type="text/plain")
    install_id = await stage.install()
    await stage.work_for(hours=71, at_most_every=HOURS)
    assert await stage.outcome(install_id) == ("provisioning", "segment_unavailable")
    await stage.work_for(hours=2)
    assert await stage.outcome(install_id) == ("failed", "segment_unavailable")
    assert await stage.open_entries(install_id) == []


async def test_an_unreadable_answer_is_tried_again(stage: Stage) -> None:
    stage.fault("GET .*destinations.*", status=200, body="<html>", content_type="text/html")
    install_id = await stage.install()
    with pytest.raises(InvalidAnswer):
        await stage.provisioner.provision(install_id)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED


async def test_refused_settings_are_shown_with_segments_words(stage: Stage) -> None:
    install_id = await stage.install(settings={"region": "mars"})
    await stage.work_for(seconds=30)
    assert await stage.outcome(install_id) == ("failed", "request_refused")
    assert "setting region has a value of the wrong type" in ((await stage.row(install_id)).status_detail or "")


async def test_a_destination_deleted_before_the_patch_is_created(stage: Stage) -> None:
    stage.put_destination(api_key="somebody", enabled=False)
    stage.fault("PATCH .*", status=404, body='{"error":"destination not found","code":5}')
    install_id = await stage.install()
    stage.wire.after = lambda sent: stage.sandbox.state.world.destinations.clear() if sent.method == "PATCH" else None
    await stage.worker.run_due()
    assert [sent.method for sent in stage.wire.sent] == ["GET", "PATCH", "GET", "POST", "GET"]
    assert await stage.outcome(install_id) == CONNECTED


async def test_an_install_without_a_source_says_so(stage: Stage) -> None:
    install_id = await stage.install(source=None, scope="workspace")
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == ("failed", "scope_without_source")
    assert stage.wire.sent == []


async def test_case_039_a_refused_token_is_refreshed_and_the_call_repeated_once(stage: Stage) -> None:
    stage.fault("GET .*destinations.*", status=401, body='{"error":"malformed token","code":16}')
    install_id = await stage.install()
    await stage.worker.run_due()
    assert [sent.path.rpartition("/")[2] for sent in stage.wire.sent[:3]] == ["acme-crm", "token", "acme-crm"]
    assert await stage.outcome(install_id) == CONNECTED


async def test_case_039_a_token_refused_again_ends_in_needs_reconnect(stage: Stage) -> None:
    stage.fault("GET .*destinations.*", None, status=401, body='{"error":"malformed token","code":16}')
    install_id = await stage.install()
    await stage.worker.run_due()
    assert len(stage.wire.sent) == 3
    assert await stage.outcome(install_id) == ("needs_reconnect", "token_rejected")
    assert "permission" in ((await stage.row(install_id)).status_detail or "")
    assert await stage.open_entries(install_id) == []


async def test_case_041_an_unavailable_refresh_is_waited_for(stage: Stage) -> None:
    install_id = await stage.install()
    stage.clock.advance(hours=2)
    stage.fault("GET .*/token", status=503, body=UPSTREAM)
    with pytest.raises(SegmentUnavailable):
        await stage.provisioner.provision(install_id)
    await stage.worker.run_due()
    assert await stage.outcome(install_id) == CONNECTED
