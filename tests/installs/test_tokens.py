"""Install tokens: contract cases 34 to 42 as far as they are about what is stored."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import timedelta

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from enable_with_segment.db.control import install_tokens
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.reasons import Reason
from enable_with_segment.installs.token_decision import reason_for_refusal
from enable_with_segment.installs.tokens import AccessHeldBack, AccessLost, InstallTokens
from enable_with_segment.segment_api.errors import (
    ConfigApiError,
    NotFound,
    RateLimited,
    SegmentError,
    SegmentUnavailable,
    Unauthenticated,
)
from tests.installs.provisioning.conftest import stage as stage_fixture
from tests.installs.provisioning.stage import Stage
from tests.segment_api.wire import SOURCE, Wire, answering, identity_client

stage = stage_fixture


def refreshes(stage: Stage) -> int:
    return len(stage.wire.of("GET", "/token"))


async def test_a_token_with_more_than_a_minute_left_is_used(stage: Stage) -> None:
    install_id = await stage.install()
    stage.clock.advance(seconds=3599 - 60)
    assert await stage.tokens.access_token(install_id) == await stage.access_token(install_id)
    assert refreshes(stage) == 0


async def test_case_034_a_token_with_less_than_a_minute_left_is_refreshed(stage: Stage) -> None:
    install_id = await stage.install()
    old = await stage.access_token(install_id)
    stage.clock.advance(seconds=3599 - 59)
    new = await stage.tokens.access_token(install_id)
    assert refreshes(stage) == 1
    assert new == await stage.access_token(install_id) != old
    assert await stage.tokens.access_token(install_id) == new
    assert refreshes(stage) == 1


async def test_case_034_the_refresh_comes_before_the_call_that_needs_it(stage: Stage) -> None:
    install_id = await stage.install()
    stage.clock.advance(hours=1)
    await stage.worker.run_due()
    assert stage.wire.sent[0].path.endswith("/token")
    assert await stage.outcome(install_id) == ("connected", None)


async def test_case_036_names_in_a_refresh_change_nothing(stage: Stage) -> None:
    install_id = await stage.install()
    before = await stage.row(install_id)
    stage.clock.advance(hours=1)
    await stage.tokens.access_token(install_id)
    after = await stage.row(install_id)
    assert (after.install_name, after.app_name) == (before.install_name, before.app_name)


async def test_case_037_a_refresh_without_sources_keeps_the_source(stage: Stage) -> None:
    install_id = await stage.install()
    stage.clock.advance(hours=1)
    await stage.tokens.access_token(install_id)
    assert (await stage.row(install_id)).source_name == SOURCE


async def test_case_038_parallel_jobs_make_one_refresh_and_share_its_token(stage: Stage) -> None:
    install_id = await stage.install()
    stage.clock.advance(hours=1)
    tokens = await asyncio.gather(*(stage.tokens.access_token(install_id) for _ in range(20)))
    assert refreshes(stage) == 1
    assert set(tokens) == {await stage.access_token(install_id)}


async def test_case_038_parallel_jobs_whose_token_was_refused_make_one_refresh(stage: Stage) -> None:
    install_id = await stage.install()
    old = await stage.access_token(install_id)
    tokens = await asyncio.gather(*(stage.tokens.access_token(install_id, rejected=old) for _ in range(20)))
    assert refreshes(stage) == 1
    assert len(set(tokens)) == 1


async def test_a_refusal_of_an_older_token_refreshes_nothing(stage: Stage) -> None:
    install_id = await stage.install()
    assert await stage.tokens.access_token(install_id, rejected="older") == await stage.access_token(install_id)
    assert refreshes(stage) == 0


async def refused_after(stage: Stage, tokens: InstallTokens, install_id: str, *, minutes: float) -> SegmentError:
    """Ask for a new token some minutes later; returns how that was refused."""
    stage.clock.advance(minutes=minutes)
    with pytest.raises((AccessLost, AccessHeldBack)) as caught:
        await tokens.renew(install_id)
    assert isinstance(caught.value, SegmentError)
    return caught.value


async def test_case_040_a_removed_install_is_marked_when_segment_says_it_twice(stage: Stage) -> None:
    install_id = await stage.install()
    token = await stage.access_token(install_id)
    stage.sandbox.state.world.uninstall((await stage.row(install_id)).install_name)
    for minutes in (0, 4.9):
        assert isinstance(await refused_after(stage, stage.tokens, install_id, minutes=minutes), AccessHeldBack)
        assert await stage.outcome(install_id) == ("provisioning", None)
    lost = await refused_after(stage, stage.tokens, install_id, minutes=0.2)
    assert isinstance(lost, AccessLost)
    assert lost.reason is Reason.REMOVAL_REPORTED
    assert await stage.outcome(install_id) == ("needs_reconnect", "removal_reported")
    assert "72 hours" in ((await stage.row(install_id)).status_detail or "")
    assert await stage.access_token(install_id) == token, "erasing comes last"
    assert refreshes(stage) == 3


async def test_case_040_a_refused_refresh_is_marked_and_alarms(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    install_id = await stage.install()
    wrong = InstallTokens(
        stage.database, stage.encryption, identity_client(stage.wire, client_secret="wrong"), stage.clock
    )
    stage.clock.advance(hours=1)
    with pytest.raises(AccessHeldBack):
        await wrong.access_token(install_id)
    assert await stage.outcome(install_id) == ("provisioning", None)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    lost = await refused_after(stage, wrong, install_id, minutes=5)
    assert isinstance(lost, AccessLost)
    assert lost.reason is Reason.REFRESH_REFUSED
    assert await stage.outcome(install_id) == ("needs_reconnect", "refresh_refused")
    assert caplog.records[-1].levelno == logging.ERROR
    assert "401 (code 16): invalid client credentials" in caplog.text


async def test_a_refusal_for_another_reason_is_a_first_one(stage: Stage) -> None:
    install_id = await stage.install()
    refusals = ['{"error":"no","code":5}', '{"error":"no","code":16}', '{"error":"no","code":5}']
    for status, body in zip((404, 401, 404), refusals, strict=True):
        stage.fault("GET .*/token", status=status, body=body)
        assert isinstance(await refused_after(stage, stage.tokens, install_id, minutes=6), AccessHeldBack)
    await stage.tokens.renew(install_id)
    stage.fault("GET .*/token", status=404, body=refusals[0])
    assert isinstance(await refused_after(stage, stage.tokens, install_id, minutes=6), AccessHeldBack)
    assert await stage.outcome(install_id) == ("provisioning", None)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [(429, '{"error":"slow","code":8}', RateLimited), (503, "upstream connect error", SegmentUnavailable)],
)
async def test_case_041_an_unavailable_refresh_changes_nothing(
    stage: Stage, status: int, body: str, kind: type[Exception]
) -> None:
    install_id = await stage.install()
    old = await stage.access_token(install_id)
    stage.clock.advance(hours=1)
    stage.fault("GET .*/token", status=status, body=body)
    with pytest.raises(kind):
        await stage.tokens.access_token(install_id)
    assert await stage.outcome(install_id) == ("provisioning", None)
    assert await stage.access_token(install_id) == old
    assert await stage.tokens.access_token(install_id) != old


async def test_case_042_only_the_newest_token_is_stored(stage: Stage) -> None:
    install_id = await stage.install()
    old = await stage.access_token(install_id)
    stage.clock.advance(hours=1)
    new = await stage.tokens.access_token(install_id)
    async with stage.database.transaction() as session:
        row = await install_tokens.get(session, install_id)
        assert row is not None
        assert row.access_token_ciphertext is not None
    clear = stage.encryption.decrypt(row.access_token_ciphertext, install_tokens.place(install_id))
    assert clear == new != old
    assert row.generation == 2
    assert row.expires_at == stage.clock() + timedelta(hours=1)


async def test_a_forgotten_token_is_minted_anew(stage: Stage) -> None:
    install_id = await stage.install()
    async with stage.database.transaction() as session:
        await install_tokens.forget(session, install_id)
    assert await stage.tokens.access_token(install_id) == await stage.access_token(install_id)


async def test_whoever_loses_a_race_between_processes_takes_the_stored_token(
    database: Database, encryption: EncryptionKeys, api_keys: ApiKeys
) -> None:
    stage = Stage(database, encryption, api_keys)
    install_id = await stage.install()
    stage.clock.advance(hours=1)

    async def answer_late(_: Request) -> Response:
        stage.clock.advance(seconds=31)  # the lease is over, so that another process may refresh
        await stage.tokens.access_token(install_id)
        return JSONResponse({"access_token": "late", "token_type": "bearer"})

    slow = InstallTokens(database, encryption, identity_client(Wire(answering(answer_late))), stage.clock)
    assert await slow.access_token(install_id) == await stage.access_token(install_id) != "late"
    await stage.close()


async def test_every_use_and_refresh_is_audited_without_the_token(stage: Stage) -> None:
    install_id = await stage.install()
    stage.clock.advance(hours=1)
    token = await stage.tokens.access_token(install_id)
    assert await stage.tokens.access_token(install_id) == token
    entries = await stage.audited()
    assert {entry.action for entry in entries} == {"install_token.use", "install_token.refresh"}
    assert {entry.subject for entry in entries} == {install_id}
    assert token not in json.dumps([entry.detail for entry in entries])


async def test_an_unknown_install_is_a_key_error(stage: Stage) -> None:
    with pytest.raises(KeyError):
        await stage.tokens.access_token("ins_nobody")


def test_a_refusal_is_a_removal_only_when_segment_says_not_found() -> None:
    assert reason_for_refusal(NotFound(404, 5, "")) is Reason.REMOVAL_REPORTED
    assert reason_for_refusal(Unauthenticated(401, 16, "")) is Reason.REFRESH_REFUSED
    assert reason_for_refusal(ConfigApiError(400, 3, "")) is Reason.REFRESH_REFUSED
