"""Token answers that cannot be used: OA-18 and OA-19, through the whole callback."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from enable_with_segment.db.control import install_tokens
from enable_with_segment.db.control.tables import InstallStatus
from enable_with_segment.installs.reasons import Reason
from enable_with_segment.installs.record import problem_of
from enable_with_segment.segment_api.grants import InstallGrant
from tests.oauth_app.conftest import FrontDoor

GRANT: dict[str, Any] = {
    "access_token": "first.part",
    "token_type": "bearer",
    "expires_in": 3599,
    "scope": "destination/acme-crm",
    "app_name": "apps/412",
    "install_name": "installs/9077",
    "workspace_names": ["workspaces/northwind"],
    "source_names": ["workspaces/northwind/sources/web-prod"],
}


async def _connect(door: FrontDoor, body: object, *, content_type: str = "application/json") -> int:
    text = body if isinstance(body, str) else json.dumps(body)
    door.fault("POST /oauth2/token", status=200, body=text, content_type=content_type)
    async with door.browser() as browser:
        return (await door.connect(browser)).status_code


@pytest.mark.parametrize(
    "body",
    [
        {**GRANT, "access_token": None},
        {**GRANT, "access_token": ""},
        {**GRANT, "access_token": ["first.part"]},
        {**GRANT, "access_token": "with\nline"},
        {**GRANT, "token_type": "mac"},
        {**GRANT, "token_type": 7},
        {**GRANT, "install_name": "workspaces/9077"},
        {**GRANT, "workspace_names": [], "source_names": []},
        {**GRANT, "padding": "x" * 70_000},
        "<html>bearer</html>",
        "[]",
    ],
    ids=str,
)
async def test_oa_18_an_answer_without_a_usable_token_leaves_no_row(front_door: FrontDoor, body: object) -> None:
    assert await _connect(front_door, body) == 502
    assert await front_door.installs() == []
    assert await front_door.queued() == []


@pytest.mark.parametrize("given", [-1, 0, 10**12, "soon", "-3599", None, True, 3599.5, [3599]])
async def test_oa_18_a_life_that_makes_no_sense_counts_as_an_hour(front_door: FrontDoor, given: object) -> None:
    assert await _connect(front_door, {**GRANT, "expires_in": given}) == 200
    (install,) = await front_door.installs()
    async with front_door.database.transaction() as session:
        token = await install_tokens.get(session, install.id)
    assert token is not None
    assert token.expires_at - token.refreshed_at == timedelta(hours=1)


async def test_oa_18_a_token_answer_of_another_content_type_is_read_as_what_it_is(front_door: FrontDoor) -> None:
    assert await _connect(front_door, GRANT, content_type="text/plain") == 200
    assert len(await front_door.installs()) == 1


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"source_names": []}, "scope_without_source"),
        ({"source_names": None, "scope": "workspace"}, "scope_without_source"),
        ({"scope": "destination/another"}, "scope_too_small"),
        ({"scope": "workspace:read"}, "scope_too_small"),
        ({"scope": "workspace destination/acme-crm"}, "scope_too_small"),
        ({"scope": "Workspace"}, "scope_too_small"),
        ({"scope": ""}, "scope_too_small"),
    ],
)
async def test_oa_19_a_grant_that_is_not_what_was_asked_for_is_not_activated(
    front_door: FrontDoor, changed: dict[str, Any], reason: str
) -> None:
    assert await _connect(front_door, {**GRANT, **changed}) == 200
    (install,) = await front_door.installs()
    assert (install.status, install.status_reason) == (InstallStatus.FAILED, reason)
    assert install.status_detail
    assert await front_door.queued() == []


async def test_oa_19_a_granted_workspace_scope_beside_a_source_activates_as_in_segments_example(
    front_door: FrontDoor,
) -> None:
    """Contract 2.5 tags ``scope`` [X]: "do not derive behaviour from it". The source is what counts."""
    assert await _connect(front_door, {**GRANT, "scope": "workspace"}) == 200
    (install,) = await front_door.installs()
    assert (install.status, install.status_reason) == (InstallStatus.PROVISIONING, None)
    assert (install.source_name, install.scope) == ("workspaces/northwind/sources/web-prod", "workspace")
    assert [entry.kind for entry in await front_door.queued()] == ["provision"]


def test_oa_19_the_scope_of_segments_own_example_passes_for_ours() -> None:
    names = ("apps/412", "installs/9077", "workspaces/northwind", ("workspaces/northwind/sources/web-prod",))
    assert problem_of(InstallGrant("t", 3599, "workspace", *names), scope="destination/acme-crm") is None
    other = InstallGrant("t", 3599, "destination/other", *names)
    assert problem_of(other, scope="destination/acme-crm") is Reason.SCOPE_TOO_SMALL
