"""The exchange of a code: contract cases 25 to 32, as a customer or an operator sees them."""

from __future__ import annotations

import json
import logging
from datetime import timedelta

import pytest

from enable_with_segment.db.control import install_tokens
from enable_with_segment.db.control.tables import InstallStatus
from tests.oauth_app.conftest import FrontDoor


def granted(**fields: object) -> str:
    """What Segment answers when it grants a code, as JSON."""
    answer = {
        "access_token": "a.b",
        "token_type": "bearer",
        "expires_in": 3599,
        "app_name": "apps/1",
        "workspace_names": ["workspaces/northwind"],
    }
    return json.dumps({**answer, **fields})


async def test_case_025_everything_is_stored_before_any_destination_call(front_door_on_both: FrontDoor) -> None:
    door = front_door_on_both
    async with door.browser() as browser:
        await door.connect(browser)
    (install,) = await door.installs()
    assert install.install_name.startswith("installs/")
    assert install.app_name is not None
    assert install.app_name.startswith("apps/")
    assert install.workspace_name == "workspaces/northwind"
    assert install.source_name == "workspaces/northwind/sources/web-prod"
    assert install.scope == "destination/acme-crm"
    async with door.database.transaction() as session:
        token = await install_tokens.get(session, install.id)
    assert token is not None
    assert timedelta(minutes=58) < token.expires_at - token.refreshed_at <= timedelta(hours=1)
    assert [entry.install_id for entry in await door.queued()] == [install.id]
    assert not [record for record in door.sandbox.state.transcript.requests if "destinations" in record.path]


async def test_case_026_a_grant_without_a_source_is_kept_and_explained(front_door: FrontDoor) -> None:
    front_door.fault("POST /oauth2/token", status=200, body=granted(scope="workspace", install_name="installs/2"))
    async with front_door.browser() as browser:
        page = await front_door.connect(browser)
    assert page.status_code == 200
    assert "scope of the Segment App has to be changed" in page.text
    (install,) = await front_door.installs()
    assert (install.status, install.status_reason) == (InstallStatus.FAILED, "scope_without_source")
    assert await front_door.queued() == []


async def test_case_027_of_two_sources_the_first_is_used(
    front_door: FrontDoor, caplog: pytest.LogCaptureFixture
) -> None:
    front_door.sandbox.state.set_switches({"source_names": "two"})
    async with front_door.browser() as browser:
        await front_door.connect(browser)
    (install,) = await front_door.installs()
    assert install.source_name == "workspaces/northwind/sources/web-prod"
    assert any("2 sources" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("case", "fault", "status", "words", "alarm", "exchanges"),
    [
        ("028", {"status": 400, "body": '{"error":"invalid_grant","status_code":400}'}, 400, "Start again", False, 1),
        (
            "029",
            {"status": 400, "body": '{"error":"invalid_request","error_hint":"check redirect_uri","status_code":400}'},
            502,
            "set up correctly",
            True,
            1,
        ),
        ("030", {"status": 401, "body": '{"error":"invalid_client","status_code":401}'}, 502, "recognise", True, 1),
        ("031", {"status": 500, "body": "{}"}, 503, "start again", False, 2),
        ("031", {"status": 503, "body": "x", "content_type": "text/plain"}, 503, "start again", False, 2),
        ("031", {"reset": True}, 503, "start again", False, 2),
        ("032", {"status": 200, "body": "<html>", "content_type": "text/html"}, 502, "couldn’t read", True, 1),
        ("032", {"malformed_json": True}, 502, "couldn’t read", True, 1),
    ],
)
async def test_cases_028_029_030_031_032_failed_exchanges_are_told_and_counted(
    front_door: FrontDoor,
    caplog: pytest.LogCaptureFixture,
    case: str,
    fault: dict[str, object],
    status: int,
    words: str,
    alarm: bool,
    exchanges: int,
) -> None:
    front_door.fault("POST /oauth2/token", times=None, **fault)
    async with front_door.browser() as browser:
        page = await front_door.connect(browser)
    assert page.status_code == status
    assert words in page.text.replace("&#39;", "’")
    assert front_door.exchanges == exchanges
    assert await front_door.installs() == []
    assert any(record.levelno >= logging.ERROR for record in caplog.records) is alarm


async def test_case_031_one_lost_answer_is_survived(front_door: FrontDoor) -> None:
    front_door.fault("POST /oauth2/token", status=503, body="busy", content_type="text/plain")
    async with front_door.browser() as browser:
        page = await front_door.connect(browser)
    assert page.url.path.startswith("/status/")
    assert front_door.exchanges == 2


async def test_an_install_of_another_account_is_left_alone(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        await front_door.connect(browser)
        (before,) = await front_door.installs()
        answer = granted(
            scope="destination/acme-crm",
            install_name=before.install_name,
            source_names=["workspaces/northwind/sources/web-prod"],
        )
        front_door.fault("POST /oauth2/token", status=200, body=answer)
        front_door.sandbox.state.set_switches({"install_exists": "token_endpoint_409"})
        page = await front_door.connect(browser, link=await front_door.link("acct_other"))
    assert page.status_code == 409
    assert await front_door.installs() == [before]
