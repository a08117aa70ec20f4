"""Services of several Segment Apps over one store keep apart what belongs to each (OA-25, EM-2)."""

from __future__ import annotations

import copy
from urllib.parse import parse_qs, urlsplit

from enable_with_segment.db.control import flow_states
from enable_with_segment.installs.connect_links import ConnectLinks
from enable_with_segment.oauth_app.flow.callback_query import CodeReturned, ErrorReturned
from enable_with_segment.oauth_app.flow.failures import FailureReason
from enable_with_segment.oauth_app.flow.install_flow import InstallFlow
from enable_with_segment.oauth_app.flow.outcomes import FlowConnected, FlowFailed, FlowStarted
from tests.oauth_app.conftest import SERVICE, FrontDoor


def _flow_of_another_app(door: FrontDoor) -> InstallFlow:
    assert door.services.flow is not None
    other = copy.copy(door.services.flow)
    other.starts = copy.copy(other.starts)
    other._component = other.starts._component = "acme-crm-eu"
    return other


async def test_oa_25_a_state_of_one_app_is_refused_at_the_callback_of_another(front_door_on_both: FrontDoor) -> None:
    door = front_door_on_both
    flow = door.services.flow
    assert flow is not None
    other = _flow_of_another_app(door)
    started = await other.starts.start("acct_1")
    assert isinstance(started, FlowStarted)
    (state,) = parse_qs(urlsplit(started.url).query)["state"]
    outcome = await flow.finish(CodeReturned("code", state), cookie=started.cookie_value)
    assert isinstance(outcome, FlowFailed)
    assert outcome.reason is FailureReason.STATE_UNKNOWN
    await flow.refuse(ErrorReturned("access_denied", None, None, state), cookie=started.cookie_value)
    assert door.exchanges == 0
    async with door.database.transaction() as session:
        stored = await flow_states.find(session, state)
    assert stored is not None
    assert stored.consumed_at is None, "its own callback can still take it"


async def test_oa_25_each_app_finishes_its_own(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        answer = await browser.submit(
            await front_door.to_consent(browser), button="allow", stop_before=f"{SERVICE}/auth/segment/callback"
        )
        query = {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}
        (cookie,) = [value for name, value in browser.http.cookies.items() if name.startswith("segment_flow_")]
    returned = CodeReturned(query["code"], query["state"])
    refused = await _flow_of_another_app(front_door).finish(returned, cookie=cookie)
    assert isinstance(refused, FlowFailed)
    assert front_door.services.flow is not None
    assert isinstance(await front_door.services.flow.finish(returned, cookie=cookie), FlowConnected)


async def test_em_02_a_link_of_another_app_looks_like_none(front_door_on_both: FrontDoor) -> None:
    door = front_door_on_both
    other: ConnectLinks = copy.copy(door.services.connect_links)
    other._component = "acme-crm-eu"
    link = (await other.create("acct_1")).url
    async with door.client() as http:
        pages = [
            await http.request(method, url) for method in ("GET", "POST") for url in (link, f"{SERVICE}/connect/none")
        ]
    assert {page.status_code for page in pages} == {404}
    assert len({page.text for page in pages}) == 1
    assert await other.look(link.rpartition("/")[2]) is not None, "it is not used up by that"
