"""The connect button pressed twice, again after going back, and callbacks that come in many times at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

from sqlmodel import select

from enable_with_segment.db.control.tables import FlowState
from enable_with_segment.http_client import httpx
from tests.oauth_app.conftest import SERVICE, FrontDoor


def _state(answer: httpx.Response) -> str:
    return parse_qs(urlsplit(answer.headers["location"]).query)["state"][0]


async def _flows(door: FrontDoor) -> list[FlowState]:
    async with door.database.transaction() as session:
        return list((await session.exec(select(FlowState))).all())


async def test_em_1_a_second_press_of_the_same_browser_goes_to_the_same_authorization(
    front_door_on_both: FrontDoor,
) -> None:
    door = front_door_on_both
    link = await door.link()
    async with door.client() as http, door.client() as stranger:
        await http.get(link)
        answers = await asyncio.gather(*(http.post(link) for _ in range(5)))
        answers.append(await http.post(link))
        assert {answer.status_code for answer in answers} == {303}
        assert len({answer.headers["location"] for answer in answers}) == 1
        assert len({answer.headers["set-cookie"].partition(";")[0] for answer in answers}) == 1
        await stranger.get(link)
        assert [(await stranger.request(method, link)).status_code for method in ("GET", "POST")] == [404, 404]
    assert len(await _flows(door)) == 1


async def test_oa_1_states_of_links_browsers_and_attempts_all_differ(front_door: FrontDoor) -> None:
    links = [await front_door.link(), await front_door.link(), await front_door.link()]
    states = []
    async with front_door.client() as http, front_door.client() as other:
        for browser, link in zip((http, http, other), links, strict=True):
            await browser.get(link)
            states.append(_state(await browser.post(link)))
        front_door.clock.moved = timedelta(minutes=11)
        for browser, link in zip((http, http, other), links, strict=True):
            states.append(_state(await browser.post(link)))
    assert len(set(states)) == 6
    assert all(len(state) == 43 for state in states)


async def test_going_back_and_pressing_again_starts_anew_until_an_install_came_of_it(front_door: FrontDoor) -> None:
    link = await front_door.link()
    async with front_door.browser() as browser:
        front_door.sandbox.state.set_switches({"consent_deny": "hidden"})
        denied = await browser.submit(await front_door.to_consent(browser, link=link), button="deny")
        assert denied.status_code == 403
        page = await browser.open(link)
        assert "Continue to Segment" in page.text, "the browser that used the link sees its page again"
        done = await front_door.connect(browser, link=link)
        assert done.url.path.startswith("/status/")
        for again in (await browser.open(link), await browser.submit(page)):
            assert again.url.path.startswith("/status/"), "the install that came of it"
    assert len(await _flows(front_door)) == 2
    assert len(await front_door.installs()) == 1


async def test_pressing_again_after_the_authorization_expired_starts_anew(front_door: FrontDoor) -> None:
    link = await front_door.link()
    async with front_door.client() as http:
        await http.get(link)
        first = _state(await http.post(link))
        front_door.clock.moved = timedelta(minutes=11)
        assert _state(await http.post(link)) != first
        front_door.clock.moved = timedelta(minutes=16)
        assert (await http.post(link)).status_code == 404, "the link itself has expired"


async def test_starting_anew_has_an_end(front_door: FrontDoor) -> None:
    link = await front_door.link()
    async with front_door.browser() as browser:
        front_door.sandbox.state.set_switches({"consent_deny": "hidden"})
        for _ in range(20):
            await browser.submit(await front_door.to_consent(browser, link=link), button="deny")
        assert (await browser.http.post(link)).status_code == 404
    assert len(await _flows(front_door)) == 20


async def test_of_sixty_simultaneous_callbacks_one_works_and_the_others_wait_for_it(
    front_door_on_both: FrontDoor,
) -> None:
    door = front_door_on_both
    async with door.browser() as browser:
        consent = await door.to_consent(browser)
        back = await browser.submit(consent, button="allow", stop_before=f"{SERVICE}/auth/segment/callback")
        url = back.headers["location"]
        answers = await asyncio.gather(*(browser.http.get(url) for _ in range(60)))
        shown = {answer.status_code: answer for answer in answers}
        assert set(shown) <= {200, 303}
        for answer in answers:
            if answer.status_code == 200:
                assert "Finishing the connection" in answer.text
                assert 'http-equiv="refresh" content="1"' in answer.text
        assert (await browser.open(url)).url.path.startswith("/status/"), "what the waiting pages come to"
    assert door.exchanges == 1
    assert len(await door.installs()) == 1


async def test_a_browser_that_comes_back_late_is_recognised_and_told_so(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser:
        consent = await front_door.to_consent(browser)
        front_door.clock.moved = timedelta(minutes=11)
        late = await browser.submit(consent, button="allow")
    assert (late.status_code, "a little too long" in late.text) == (400, True)
