"""The limit of 200 requests a minute, on a clock of our own."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse

from enable_with_segment.segment_api.config_api import ConfigApi
from enable_with_segment.segment_api.identity import IdentityClient
from enable_with_segment.segment_api.rate_limiter import RateLimiter
from enable_with_segment.segment_api.secret import Secret
from tests.segment_api.wire import CLIENT_ID, CONFIG_API, DESTINATION, ORIGIN, REDIRECT_URI, SCOPE, Wire, answering


class Seconds:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@given(st.integers(1, 30), st.lists(st.floats(0, 90), max_size=100))
def test_no_minute_ever_sees_more_than_the_limit(limit: int, pauses: list[float]) -> None:
    async def run() -> list[float]:
        clock = Seconds()
        limiter = RateLimiter(limit, monotonic=clock, sleep=clock.sleep)
        passed = []
        for pause in pauses:
            clock.now += pause
            await limiter.acquire()
            passed.append(clock.now)
        return passed

    passed = asyncio.run(run())
    for position, at in enumerate(passed):
        # Sums of floating point seconds may be off by a hair.
        assert sum(1 for other in passed[position:] if other < at + 59.999) <= limit


async def test_case_056_all_calls_of_a_process_share_two_hundred_a_minute() -> None:
    clock = Seconds()
    limiter = RateLimiter(monotonic=clock, sleep=clock.sleep)
    answer = {"name": DESTINATION, "enabled": True, "access_token": "a", "token_type": "bearer"}
    wire = Wire(answering(JSONResponse(answer)))
    config_api = ConfigApi(CONFIG_API, transport=wire, limiter=limiter)
    identity = IdentityClient(
        identity_url=ORIGIN,
        config_api_url=CONFIG_API,
        client_id=CLIENT_ID,
        client_secret=Secret("s"),
        redirect_uri=REDIRECT_URI,
        scope=SCOPE,
        http=wire,
        limiter=limiter,
    )
    for _ in range(100):
        await config_api.get_destination("token", DESTINATION)
        await identity.refresh("installs/1")
    assert clock.now == 0
    await config_api.get_destination("token", DESTINATION)
    assert clock.now == 60
    assert len(wire.sent) == 201
    await config_api.aclose()
    await identity.aclose()


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        RateLimiter(0)
