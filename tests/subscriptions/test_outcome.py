"""What follows from how handlers end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.event_log.records import ClaimedEvent, HandlerResult
from db.event_log.tables import EventState, HandlerState
from subscriptions import Event, EventNotSupported, InvalidEventPayload, RetryError, ValidationError
from subscriptions.backoff import RetryPolicy
from subscriptions.outcome import Verdict, batch_errors, conclude, judge

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
states = st.sampled_from(HandlerState)
unit = st.floats(0, 1)


def claimed(attempts: int = 0, finished: tuple[HandlerResult, ...] = ()) -> ClaimedEvent:
    return ClaimedEvent(
        1, "lease", "track", "acme", "acme-crm", "key_1", None, NOW, b"{}", {}, attempts, finished, suppressed=False
    )


@given(
    st.lists(states, max_size=4),
    st.lists(states.filter(lambda state: state is not HandlerState.RETRY), max_size=4),
    st.integers(0, 40),
    unit,
)
def test_an_event_is_done_with_exactly_when_nothing_can_be_tried_again(
    now_states: list[HandlerState], earlier: list[HandlerState], attempts: int, jitter: float
) -> None:
    policy = RetryPolicy(attempts=20)
    verdicts = [Verdict(f"now {number}", state, "why") for number, state in enumerate(now_states)]
    finished = tuple(HandlerResult(f"earlier {number}", state, "why") for number, state in enumerate(earlier))
    settlement = conclude(claimed(attempts, finished), verdicts, policy=policy, now=NOW, jitter=jitter)
    may_retry = HandlerState.RETRY in now_states and attempts + 1 < policy.attempts
    failed = HandlerState.FAILED in (*now_states, *earlier) or HandlerState.RETRY in now_states
    done = HandlerState.DONE in (*now_states, *earlier)
    expected = (
        EventState.PENDING
        if may_retry
        else EventState.DEAD_LETTER
        if failed
        else EventState.HANDLED
        if done
        else EventState.UNSUPPORTED
    )
    assert settlement.state is expected
    assert (settlement.available_at is not None) == may_retry
    assert (settlement.error is not None) >= (expected is EventState.DEAD_LETTER)
    assert len(settlement.results) == len(verdicts)


@given(st.integers(1, 10_000), unit)
def test_waits_grow_to_the_ceiling_and_never_beyond(attempt: int, jitter: float) -> None:
    policy = RetryPolicy()
    wait = policy.delay(attempt, jitter=jitter)
    assert policy.first / 2 <= wait <= policy.ceiling
    assert policy.delay(attempt + 1, jitter=1) >= policy.delay(attempt, jitter=1)
    assert policy.delay(attempt, jitter=0) * 2 == pytest.approx(
        policy.delay(attempt, jitter=1), abs=timedelta(milliseconds=1)
    )


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (None, HandlerState.DONE, None),
        (EventNotSupported("not ours"), HandlerState.UNSUPPORTED, "not ours"),
        (InvalidEventPayload(), HandlerState.FAILED, "InvalidEventPayload"),
        (ValidationError("no e-mail"), HandlerState.FAILED, "no e-mail"),
        (RetryError(retry_after=5), HandlerState.RETRY, "try again later"),
        (RetryError(retry_after=timedelta(minutes=1)), HandlerState.RETRY, "try again later"),
        (TimeoutError(), HandlerState.RETRY, "it took too long"),
        (KeyError("email"), HandlerState.RETRY, "KeyError: 'email'"),
        (ValueError("a\0b\ud800" + "x" * 900), HandlerState.RETRY, "ValueError: a\ufffdb?" + "x" * 496),
    ],
)
def test_exceptions_mean_what_their_names_say(error: Exception | None, state: HandlerState, reason: str | None) -> None:
    verdict = judge("handler", error)
    assert (verdict.state, verdict.reason) == (state, reason)


def test_the_longest_wish_counts_but_not_more_than_a_day() -> None:
    wishes = [judge(f"h{seconds}", RetryError(retry_after=seconds)) for seconds in (5, 60)]
    settlement = conclude(claimed(), wishes, policy=RetryPolicy(), now=NOW, jitter=0)
    assert settlement.available_at == NOW + timedelta(seconds=60)
    forever = [judge("h", RetryError(retry_after=timedelta(days=400)))]
    settlement = conclude(claimed(), forever, policy=RetryPolicy(), now=NOW, jitter=0)
    assert settlement.available_at == NOW + timedelta(hours=24)


def test_batch_answers_come_in_three_forms() -> None:
    events = [Event({"messageId": "a"}), Event({"messageId": "b"})]
    problem = ValidationError("odd")
    assert batch_errors(None, events) == [None, None]
    assert batch_errors([None, problem], events) == [None, problem]
    assert batch_errors({"a": problem}, events) == [problem, None]
    for nonsense in ("ok", [None], 7):
        assert all(isinstance(error, TypeError) for error in batch_errors(nonsense, events))
    assert isinstance(batch_errors([None, "failed"], events)[1], TypeError)
