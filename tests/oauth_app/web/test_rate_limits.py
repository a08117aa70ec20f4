"""Rate limits: buckets, who a client is, and that a start is limited and bounded (OA-24)."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func
from sqlmodel import select

from enable_with_segment.db.control.tables import FlowState
from enable_with_segment.http_client import httpx
from enable_with_segment.installs import status as install_status
from enable_with_segment.oauth_app.demo.browser import Browser
from enable_with_segment.oauth_app.flow import flow_starts
from enable_with_segment.oauth_app.flow.cookies import FlowCookies, cookie_name
from enable_with_segment.oauth_app.flow.failures import FailureReason
from enable_with_segment.oauth_app.flow.outcomes import FlowFailed
from enable_with_segment.oauth_app.web.rate_limits import RATES, Purpose, Rate, RateLimits, TokenBuckets, client_of
from tests.leak_watch import FLOW, LeakWatch
from tests.oauth_app.conftest import FrontDoor
from tests.oauth_app.operations import SERVICE, Operations, running_service

CALLBACK = f"{SERVICE}/auth/segment/callback"
MANUAL_KEY = f"{SERVICE}/auth/segment/manual-key"
PROXIES = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32")]


class Ticks:
    """A monotonic clock that a test moves."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Operations]:
    async with running_service(tmp_path) as running:
        yield running


def _use_up(limits: RateLimits, bucket: str, purpose: Purpose = Purpose.CALLBACK) -> None:
    """Take all that a client may ask for, at a moment that does not pass: it would be given more."""
    buckets = limits._buckets[purpose]
    buckets._clock = Ticks(buckets._clock())
    for _ in range(RATES[purpose].burst):
        buckets.take(bucket)


def test_a_burst_is_allowed_and_then_so_many_a_second() -> None:
    ticks = Ticks()
    buckets = TokenBuckets(Rate(burst=3, per_second=0.5), clock=ticks)
    assert [buckets.take("a") for _ in range(4)] == [None, None, None, 2.0]
    assert buckets.take("b") is None, "each client has its own"
    ticks.now = 2.0
    assert buckets.take("a") is None
    assert buckets.take("a") is not None
    ticks.now = 1000.0
    assert [buckets.take("a") for _ in range(4)][:3] == [None, None, None], "no more than the burst is saved up"


@given(st.lists(st.tuples(st.floats(0, 10), st.sampled_from("abc")), max_size=60))
def test_nobody_ever_gets_more_than_burst_and_rate(asked: list[tuple[float, str]]) -> None:
    ticks, rate = Ticks(), Rate(burst=4, per_second=0.5)
    buckets = TokenBuckets(rate, clock=ticks)
    allowed = dict.fromkeys("abc", 0)
    for pause, client in asked:
        ticks.now += pause
        allowed[client] += buckets.take(client) is None
        assert allowed[client] <= rate.burst + rate.per_second * ticks.now + 1e-6


def test_memory_is_bounded_and_the_quietest_client_goes_first() -> None:
    buckets = TokenBuckets(Rate(burst=1, per_second=0.001), most=100, clock=Ticks())
    assert buckets.take("busy") is None
    for number in range(10_000):
        buckets.take(f"client {number}")
        buckets.take("busy")
    assert len(buckets) == 100
    assert buckets.take("busy") is not None, "asking often does not reset the count"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("10.1.1.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.1.1.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("10.1.1.1", ["203.0.113.9, 10.2.2.2"], "203.0.113.9"),
        ("10.1.1.1", ["203.0.113.9", "10.2.2.2"], "203.0.113.9"),
        ("10.1.1.1", ["made up"], "10.1.1.1"),
        ("10.1.1.1", ["10.2.2.2"], "10.2.2.2"),
        ("::ffff:10.1.1.1", ["203.0.113.9"], "203.0.113.9"),
        ("2001:db8::1", ["2a00:1:2:3:4:5:6:7"], "2a00:1:2:3::/64"),
        ("2a00:1:2:3::1", [], "2a00:1:2:3::/64"),
        ("", [], ""),
    ],
)
def test_a_client_is_the_socket_unless_our_own_proxy_names_another(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert client_of(peer, forwarded, PROXIES) == client


@given(st.text(max_size=60), st.lists(st.text(max_size=60), max_size=3))
def test_any_header_is_read_without_trouble(peer: str, forwarded: list[str]) -> None:
    assert len(client_of(peer, forwarded, PROXIES)) <= 100


@pytest.mark.parametrize(
    ("purpose", "path", "told"),
    [
        (Purpose.CONNECT, "/auth/segment", "Too many requests"),
        (Purpose.CONNECT, "/connect/x", "Too many requests"),
        (Purpose.CALLBACK, "/auth/segment/callback?code=c&state=made-up", "Too many requests"),
        (Purpose.CALLBACK, "/auth/segment/callback?error=access_denied", "Too many requests"),
        (Purpose.STATUS, "/status/made-up", "Too many requests"),
        (Purpose.LOGIN, "/dashboard/login", "Too many requests"),
        (Purpose.API, "/api/v1/installs", "too_many_requests"),
    ],
)
async def test_oa_24_a_client_that_asks_too_often_has_to_wait(
    service: Operations, purpose: Purpose, path: str, told: str
) -> None:
    _use_up(service.services.rate_limits, "127.0.0.1", purpose)
    answer = await service.http.get(f"{SERVICE}{path}", headers={"X-Forwarded-For": "203.0.113.9"})
    assert (answer.status_code, told in answer.text) == (429, True)
    assert int(answer.headers["retry-after"]) >= 1


async def test_oa_24_rate_limits_are_counted_behind_a_trusted_proxy(tmp_path: Path) -> None:
    async with running_service(tmp_path, trusted_proxies="127.0.0.0/8") as service:
        _use_up(service.services.rate_limits, "203.0.113.9", Purpose.LOGIN)
        one, other = [
            await service.http.get(f"{SERVICE}/dashboard/login", headers={"X-Forwarded-For": address})
            for address in ("203.0.113.9", "203.0.113.10")
        ]
    assert one.status_code == 429
    assert other.status_code == 404


async def _walk_back(door: FrontDoor, browser: Browser) -> str:
    """Walk up to the moment Segment redirects back, and return that address without going there."""
    answer = await browser.submit(await door.to_consent(browser), button="allow", stop_before=CALLBACK)
    return str(answer.headers["location"])


async def test_oa_24_nobody_keeps_a_customer_from_coming_back(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser, front_door.client() as neighbour:
        url = await _walk_back(front_door, browser)
        state = httpx.URL(url).params["state"]
        forged = {"Cookie": f"{cookie_name(state)}={'x' * 43}.{'y' * 43}"}
        _use_up(front_door.services.rate_limits, "127.0.0.1")  # as it would be behind one proxy
        for made_up in (state, "made-up"):
            params = {"code": "made-up", "state": made_up}
            assert (await neighbour.get(CALLBACK, params=params, headers=forged)).status_code == 429
        page = await browser.open(url)
    assert page.url.path.startswith("/status/")


async def test_oa_24_a_flow_s_own_browser_cannot_come_back_without_end(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser, front_door.browser() as other:
        url = await _walk_back(front_door, browser)
        _use_up(front_door.services.rate_limits, cookie_name(httpx.URL(url).params["state"]))
        refused = await browser.http.get(url)
        assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
        assert front_door.exchanges == 0
        assert (await front_door.connect(other)).url.path.startswith("/status/")


async def _to_the_offer_of_a_key(door: FrontDoor, first: Browser, second: Browser) -> tuple[httpx.Response, str]:
    """Let Segment refuse a second install; return the page that offers a key to paste, and its flow's own bucket."""
    await door.connect(first)
    page = await door.connect(second, link=await door.link("acct_other"))
    return page, cookie_name(page.url.params["state"])


async def test_oa_24_nobody_keeps_a_customer_from_the_key_to_paste(
    front_door: FrontDoor, leak_watch: LeakWatch
) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")
    async with front_door.browser() as first, front_door.browser() as second, front_door.client() as neighbour:
        page, _ = await _to_the_offer_of_a_key(front_door, first, second)
        _use_up(front_door.services.rate_limits, "127.0.0.1", Purpose.MANUAL_KEY)
        for state in (page.url.params["state"], "made-up"):
            refused = await neighbour.post(MANUAL_KEY, data={"state": state})
            assert (refused.status_code, int(refused.headers["retry-after"]) >= 1) == (429, True)
        assert "ews_" in (await second.submit(page)).text


async def test_oa_24_a_key_to_paste_cannot_be_asked_for_without_end(
    front_door: FrontDoor, leak_watch: LeakWatch
) -> None:
    leak_watch.allow(FLOW, "answer to GET /auth/segment/callback")
    async with front_door.browser() as first, front_door.browser() as second:
        page, flow = await _to_the_offer_of_a_key(front_door, first, second)
        _use_up(front_door.services.rate_limits, flow, Purpose.MANUAL_KEY)
        refused = await second.submit(page)
    assert (refused.status_code, "ews_" in refused.text) == (429, False)


async def test_oa_24_a_status_page_is_counted_for_its_install(front_door: FrontDoor) -> None:
    async with front_door.browser() as browser, front_door.client() as neighbour:
        page = await front_door.connect(browser)
        (install,) = await front_door.installs()
        _use_up(front_door.services.rate_limits, "127.0.0.1", Purpose.STATUS)
        made_up = [await neighbour.get(f"{SERVICE}/status/{link}") for link in ("made-up", f"{page.url.path[8:]}x")]
        assert [answer.status_code for answer in made_up] == [429, 429]
        assert (await browser.http.get(page.url)).status_code == 200

        _use_up(front_door.services.rate_limits, install.id, Purpose.STATUS)
        for answer in (await browser.http.get(page.url), await browser.http.post(page.url, data={"action": "retry"})):
            assert (answer.status_code, int(answer.headers["retry-after"]) >= 1) == (429, True)


def test_a_status_page_that_stays_open_several_times_is_never_told_to_wait() -> None:
    ticks = Ticks()
    buckets = TokenBuckets(RATES[Purpose.STATUS], clock=ticks)
    for _ in range(1_000):
        assert [buckets.take("ins_1") for _ in range(10)] == [None] * 10
        ticks.now += install_status._REFRESH_SECONDS


def test_only_the_cookie_of_the_very_flow_counts_for_it() -> None:
    cookies, others = FlowCookies(b"a" * 32), FlowCookies(b"b" * 32)
    cookie = cookies.make("state-1", "random")
    assert cookies.is_ours("state-1", cookie)
    assert FlowCookies(b"a" * 32).is_ours("state-1", cookie), "in every process"
    for state, value in (
        ("state-2", cookie),
        ("state-1", others.make("state-1", "random")),
        ("state-1", f"r{cookie}"),
        ("state-1", cookie[:-1]),
        ("state-1", "random"),
        ("state-1", ""),
        ("state-1", "ü.ü"),
    ):
        assert not cookies.is_ours(state, value)


async def test_oa_24_open_flows_are_capped(front_door: FrontDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_starts, "_MOST_OPEN_FLOWS", 5)
    flow = front_door.services.flow
    assert flow is not None
    outcomes = [await flow.starts.start("acct_1") for _ in range(8)]
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, FlowFailed)] == [
        FailureReason.TOO_MANY_FLOWS
    ] * 3
    async with front_door.database.transaction() as session:
        assert (await session.exec(select(func.count()).select_from(FlowState))).one() == 5


async def test_oa_24_a_link_stays_usable_when_too_many_flows_are_open(
    front_door: FrontDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = await front_door.link()
    monkeypatch.setattr(flow_starts, "_MOST_OPEN_FLOWS", 0)
    async with front_door.client() as http, front_door.client() as another:
        refused = await http.post(link)
        assert (refused.status_code, "Many people are connecting" in refused.text) == (429, True)
        monkeypatch.undo()
        assert (await http.get(link)).status_code == 200
        assert (await http.post(link)).status_code == 303
        assert (await another.post(link)).status_code == 404


def test_every_purpose_has_a_rate() -> None:
    limits = RateLimits()
    assert set(limits._buckets) == set(RATES) == set(Purpose)
