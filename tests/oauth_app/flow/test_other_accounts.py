"""One account's customer can do nothing to another account's install, by whatever address (OA-22)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.routing import Route

from enable_with_segment.db.control.tables import InstallStatus
from enable_with_segment.oauth_app.flow.outcomes import FlowFailed
from tests.oauth_app.operations import SERVICE, Operations, running_service

OWNER, OTHER = "acct_owner", "acct_other"


async def signed_in(request: Request) -> str | None:
    """The partner's session of these tests: a header says who is signed in."""
    return request.headers.get("x-partner-account")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Operations]:
    hook = "tests.oauth_app.flow.test_other_accounts:signed_in"
    async with running_service(tmp_path, partner_session=hook) as running:
        yield running


def _addresses(service: Operations, words: dict[str, str]) -> list[tuple[str, str]]:
    """Every route of the service, its parameters filled with what belongs to the owner."""
    found = []
    for route in service.app.routes:
        if isinstance(route, Route):
            path = re.sub(r"\{(\w+)(?::path)?\}", lambda name: words.get(name[1], "x"), route.path)
            found += [(method, path) for method in sorted((route.methods or set()) - {"HEAD"})]
    return found


async def test_oa_22_another_account_neither_sees_nor_changes_an_install_by_any_route(service: Operations) -> None:
    install = await service.install(OWNER, status=InstallStatus.FAILED, workspace_name="workspaces/owners-own")
    links = service.services.status_links
    status_link = links.make(install.id, now=service.services.clock())
    connect_link = (await service.services.connect_links.create(OWNER)).url.rpartition("/")[2]
    before = install.model_dump()
    headers = {"X-Partner-Account": OTHER, "Sec-Fetch-Site": "same-origin"}
    tried = 0
    for link in (status_link, connect_link):
        words = {"link": link, "install_id": install.id, "token": link, "message_id": "x", "key_id": "x"}
        for method, path in _addresses(service, words):
            for data in ({"action": "retry"}, {"action": "overwrite"}, {"reason": "why", "action": "reconnect"}):
                answer = await service.http.request(method, f"{SERVICE}{path}", headers=headers, data=data)
                assert "owners-own" not in answer.text, (method, path)
                assert OWNER not in answer.text, (method, path)
                tried += 1
    assert tried > 100
    assert (await service.stored_install(install.id)).model_dump() == before
    assert await service.services.connect_links.look(connect_link) is not None


@pytest.mark.parametrize("account", [OWNER, None])
async def test_oa_22_the_owner_and_whoever_has_the_link_see_it(service: Operations, account: str | None) -> None:
    install = await service.install(OWNER, status=InstallStatus.FAILED, workspace_name="workspaces/owners-own")
    link = service.services.status_links.make(install.id, now=service.services.clock())
    headers: dict[str, Any] = {} if account is None else {"X-Partner-Account": account}
    page = await service.http.get(f"{SERVICE}/status/{link}", headers=headers)
    assert (page.status_code, "owners-own" in page.text) == (200, True)
    answer = await service.http.post(f"{SERVICE}/status/{link}", data={"action": "retry"}, headers=headers)
    assert answer.status_code == 303
    assert (await service.stored_install(install.id)).status is InstallStatus.PROVISIONING


async def test_oa_21_a_callback_in_a_browser_of_another_account_exchanges_nothing(service: Operations) -> None:
    flow = service.services.flow
    assert flow is not None
    started = await flow.starts.start(OWNER)
    assert not isinstance(started, FlowFailed)
    (state,) = re.findall(r"[?&]state=([^&]+)", started.url)
    headers = {"X-Partner-Account": OTHER, "Cookie": f"{started.cookie_name}={started.cookie_value}"}
    answer = await service.http.get(f"{SERVICE}/auth/segment/callback?code=c&state={state}", headers=headers)
    # Segment's address leads nowhere here: an exchange would have ended as "unavailable", not as a refusal.
    assert (answer.status_code, "different account" in answer.text) == (403, True)
    again = {**headers, "X-Partner-Account": OWNER}
    answer = await service.http.get(f"{SERVICE}/auth/segment/callback?code=c&state={state}", headers=again)
    assert answer.status_code == 403
