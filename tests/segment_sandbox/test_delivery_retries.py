"""What an answer means to the sandbox's deliveries: success, a retry on its schedule, or the end."""

from __future__ import annotations

import itertools
import json
import random
import socket
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox import PROFILES, Sandbox, SandboxConfig, Switches, acme_crm
from enable_with_segment.segment_sandbox.delivery.outcomes import outcome_of_error, outcome_of_status, retry_delay
from tests.segment_sandbox.customer import TRACK, WEB_DESTINATION, Customer
from tests.segment_sandbox.partner import Answer, Partner


async def test_behaviour_049_a_slow_answer_is_tried_again(delivering: Customer, partner: Partner) -> None:
    await delivering.control("switches", {"delivery_timeout_seconds": 0.05})
    partner.answers.append(Answer(hang=True))
    await delivering.send("track", TRACK)
    await delivering.idle(retries=False)
    assert [d["code"] for d in await delivering.deliveries()] == ["errors.awaiting-retry.ECONNABORTED"]
    await delivering.control("switches", {"delivery_timeout_seconds": 5.0})
    await delivering.control("clock", {"advance_seconds": 23})
    await delivering.idle()
    assert [event["messageId"] for event in partner.events] == ["m-1", "m-1"], "behaviour 54: delivered twice"


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [
        (200, "succeeded", "delivered"),
        (204, "succeeded", "delivered"),
        (307, "discarded", "307"),
        (400, "discarded", "errors.discarded.400"),
        (401, "discarded", "errors.discarded.401"),
        (403, "discarded", "errors.discarded.403"),
        (404, "discarded", "404"),
        (408, "discarded", "408"),
        (413, "discarded", "413"),
        (423, "discarded", "423"),
        (429, "awaiting_retry", "errors.awaiting-retry.429"),
        (500, "awaiting_retry", "errors.awaiting-retry.5xx"),
        (501, "discarded", "UNSUPPORTED_EVENT_TYPE"),
        (502, "awaiting_retry", "errors.awaiting-retry.5xx"),
        (503, "awaiting_retry", "errors.awaiting-retry.5xx"),
        (504, "awaiting_retry", "errors.awaiting-retry.5xx"),
        (507, "awaiting_retry", "errors.awaiting-retry.5xx"),
    ],
)
def test_behaviour_050_status_matrix(status: int, state: str, code: str) -> None:
    outcome = outcome_of_status(status, Switches(), random.Random(1))  # noqa: S311
    assert (outcome.state, outcome.code) == (state, code)


def test_behaviour_050_contradicted_statuses_are_switches() -> None:
    dice = random.Random(1)  # noqa: S311
    yes = Switches().changed({"retry_408_and_423": "yes", "retry_501": "yes", "retry_505_and_up": "no"})
    assert outcome_of_status(408, yes, dice).state == "awaiting_retry"
    assert outcome_of_status(501, yes, dice).state == "awaiting_retry"
    assert outcome_of_status(505, yes, dice).state == "discarded"
    both = {outcome_of_status(423, PROFILES["hostile"], dice).state for _ in range(50)}
    assert both == {"awaiting_retry", "discarded"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx.ReadTimeout(""), "ECONNABORTED"),
        (TimeoutError(), "ECONNABORTED"),
        (httpx.ReadError(""), "ECONNRESET"),
        (httpx.RemoteProtocolError(""), "ECONNRESET"),
        (httpx.ConnectError(""), "EHOSTUNREACH"),
        (httpx.InvalidURL(""), "INTERNAL"),
    ],
)
def test_behaviour_050_errors_are_retried(error: Exception, code: str) -> None:
    outcome = outcome_of_error(error)
    assert (outcome.state, outcome.code) == ("awaiting_retry", f"errors.awaiting-retry.{code}")


async def test_behaviour_050_refused_and_reset_connections(delivering: Customer, partner: Partner) -> None:
    partner.answers.append(Answer(drop=True))
    await delivering.send("track", TRACK)
    await delivering.idle(retries=False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        await delivering.control(
            "catalog", {"slug": "acme-crm", "endpoint": f"http://127.0.0.1:{unused.getsockname()[1]}/"}
        )
        await delivering.send("track", {**TRACK, "messageId": "m-2"})
        await delivering.idle(retries=False)
    codes = [delivery["code"] for delivery in await delivering.deliveries()]
    assert codes == ["errors.awaiting-retry.ECONNRESET", "errors.awaiting-retry.ECONNREFUSED"]


async def test_behaviour_051_ten_attempts_then_discarded(delivering: Customer, partner: Partner) -> None:
    partner.usual = Answer(503)
    await delivering.send("track", TRACK)
    for _ in range(10):
        await delivering.idle(retries=False)
        await delivering.control("clock", {"advance_seconds": 96 * 60})
    summary = await delivering.idle()
    assert len(partner.received) < 10, "jumps of 96 minutes leave the window of 240 before the tenth"
    assert summary["discarded"] == 1


async def test_behaviour_051_the_whole_schedule(delivering: Customer, partner: Partner) -> None:
    partner.usual = Answer(503)
    await delivering.send("track", TRACK)
    pending = delivering.sandbox.deliveries.pending
    while pending:
        await delivering.idle(retries=False)
        due = [delivery.next_attempt_at for delivery in pending.values() if delivery.next_attempt_at]
        if due:
            wait = (due[0] - delivering.sandbox.state.now()).total_seconds()
            await delivering.control("clock", {"advance_seconds": wait})
    delivery = (await delivering.deliveries())[0]
    attempts = delivery["attempts"]
    assert isinstance(attempts, list)
    assert delivery["state"] == "discarded"
    assert [attempt["number"] for attempt in attempts] == list(range(1, len(partner.received) + 1))
    assert len(attempts) == 10
    times = [datetime.fromisoformat(attempt["at"]) for attempt in attempts]
    delays = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)]
    for number, delay in enumerate(delays):
        assert 0.5 <= delay / (15 * 2**number) <= 1.51


@given(st.integers(1, 9), st.integers())
def test_behaviour_051_delays_and_their_jitter(made: int, seed: int) -> None:
    delay = retry_delay(made, random.Random(seed))  # noqa: S311
    assert 0.5 <= delay / (15 * 2 ** (made - 1)) <= 1.5


async def test_behaviour_051_retry_after_counts_only_when_switched_on(delivering: Customer, partner: Partner) -> None:
    partner.usual = Answer(429, headers={"Retry-After": "7000"})
    await delivering.send("track", TRACK)
    await delivering.idle(retries=False)
    await delivering.control("switches", {"honour_retry_after": True})
    await delivering.send("track", {**TRACK, "messageId": "m-2"})
    await delivering.idle(retries=False)
    now = delivering.sandbox.state.now()
    waits = [
        (delivery.next_attempt_at - now).total_seconds()
        for delivery in delivering.sandbox.deliveries.pending.values()
        if delivery.next_attempt_at
    ]
    assert waits[0] <= 22.5
    assert waits[1] == 7000


async def test_behaviour_052_successes_by_attempt(delivering: Customer, partner: Partner) -> None:
    partner.answers.append(Answer(500))
    await delivering.send("track", TRACK)
    await delivering.send("track", {**TRACK, "messageId": "m-2"})
    await delivering.idle(retries=False)
    await delivering.control("clock", {"advance_seconds": 23})
    summary = await delivering.idle()
    assert (summary["successes.attempt.1"], summary["successes.attempt.2"]) == (1, 1)


async def test_behaviour_053_messages_only_from_application_json(delivering: Customer, partner: Partner) -> None:
    body = json.dumps({"message": "Unknown API key."}).encode()
    partner.answers.extend(
        [
            Answer(401, body),
            Answer(401, body, "application/json; charset=utf-8"),
            Answer(401, body, "text/plain"),
            Answer(401, b"{", "application/json"),
            Answer(401, b'{"message": 7}', "application/json"),
        ]
    )
    await delivering.control("switches", {"delivery_parallelism": 1, "reorder_rate": 0.0})
    for number in range(5):
        await delivering.send("track", {**TRACK, "messageId": f"m-{number}"})
    await delivering.idle()
    attempts = [delivery.attempts[0] for delivery in delivering.sandbox.deliveries.log]
    assert [attempt.message for attempt in attempts] == ["Unknown API key.", "Unknown API key.", None, None, None]
    assert "Unknown API key." in (await delivering.http.get("/")).text


async def test_a_delivery_is_discarded_when_its_destination_goes_away(delivering: Customer, partner: Partner) -> None:
    partner.usual = Answer(503)
    await delivering.send("track", TRACK)
    await delivering.idle(retries=False)
    del delivering.sandbox.state.world.destinations[WEB_DESTINATION]
    await delivering.control("clock", {"advance_seconds": 23})
    await delivering.idle()
    assert [d["code"] for d in await delivering.deliveries()] == ["destination_disabled"]


async def test_the_clock_runs_faster(partner: Partner) -> None:
    """At 100,000 sandbox seconds a second, a retry after half a minute comes by itself."""
    partner.answers.append(Answer(503))
    config = SandboxConfig(profile="documented", catalog=(acme_crm(partner.url),), time_scale=100_000)
    sandbox = Sandbox(config)
    async with sandbox.listening() as base_url, httpx.AsyncClient(base_url=base_url) as http:
        customer = Customer(sandbox, http)
        sandbox.state.clock.set_scale(0)
        await customer.enable()
        await customer.control("clock", {"time_scale": 100_000})
        await customer.send("track", TRACK)
        summary = await customer.idle()
    assert summary["successes.attempt.2"] == 1
