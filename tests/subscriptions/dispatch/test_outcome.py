"""What follows from how handlers end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enable_with_segment import Event, EventNotSupported, InvalidEventPayload, RetryError, ValidationError
from enable_with_segment.db.backoff import RetryPolicy
from enable_with_segment.db.event_log.instants import to_microseconds
from enable_with_segment.db.event_log.records import UNFINISHED, ClaimedEvent, HandlerRecord, HandlerResult
from enable_with_segment.db.event_log.sqlite import outcomes
from enable_with_segment.db.event_log.states import EventState, HandlerState
from enable_with_segment.subscriptions.dispatch.outcome import (
    Verdict,
    Waiting,
    batch_errors,
    conclude,
    judge,
    put_back_for,
)

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
states = st.sampled_from(HandlerState)
unit = st.floats(0, 1)


def claimed(
    attempts: int = 0, finished: tuple[HandlerResult, ...] = (), unfinished: tuple[HandlerRecord, ...] = ()
) -> ClaimedEvent:
    return ClaimedEvent(
        1,
        "lease",
        "track",
        "acme",
        "acme-crm",
        "key_1",
        None,
        NOW,
        b"{}",
        {},
        attempts,
        finished,
        suppressed=False,
        unfinished=unfinished,
    )


@given(
    st.lists(st.tuples(states, st.integers(0, 40)), max_size=4),
    st.lists(states.filter(lambda state: state not in UNFINISHED), max_size=4),
    st.lists(st.integers(-100, 100), max_size=3),
    unit,
)
def test_an_event_is_done_with_exactly_when_nothing_can_be_tried_again(
    now_states: list[tuple[HandlerState, int]], earlier: list[HandlerState], waits: list[int], jitter: float
) -> None:
    policy = RetryPolicy(attempts=20)
    verdicts = [Verdict(f"now {number}", state, "why") for number, (state, _) in enumerate(now_states)]
    before = tuple(
        HandlerRecord(
            f"now {number}", HandlerState.RETRY, attempts, NOW, "why", NOW, NOW - timedelta(hours=1), attempts
        )
        for number, (_, attempts) in enumerate(now_states)
        if attempts
    )
    finished = tuple(HandlerResult(f"earlier {number}", state, "why") for number, state in enumerate(earlier))
    waiting = [Waiting(f"waits {number}", NOW + timedelta(seconds=wait), "busy") for number, wait in enumerate(waits)]
    event = claimed(3, finished, before)
    settlement = conclude(event, verdicts, waiting=waiting, policy=policy, now=NOW, jitter=jitter)
    again = [attempts for state, attempts in now_states if state in UNFINISHED and attempts + 1 < policy.attempts]
    given_up = any(state in UNFINISHED and attempts + 1 >= policy.attempts for state, attempts in now_states)
    everything = [*(state for state, _ in now_states), *earlier]
    if again or waits:
        expected = EventState.PENDING
    elif given_up or HandlerState.FAILED in everything:
        expected = EventState.DEAD_LETTER
    else:
        expected = EventState.HANDLED if HandlerState.DONE in everything else EventState.UNSUPPORTED
    assert settlement.state is expected
    assert (settlement.available_at is not None) == (expected is EventState.PENDING)
    assert (settlement.error is not None) >= (expected is EventState.DEAD_LETTER)
    assert len(settlement.results) == len(verdicts)
    if settlement.available_at is not None:
        due = [result.due_at for result in settlement.results if result.due_at is not None]
        assert len(due) == len(again)
        assert settlement.available_at == max(NOW, min([*due, *(other.until for other in waiting)]))
        assert settlement.attempted == bool(verdicts)


def test_each_handler_has_attempts_and_waits_of_its_own() -> None:
    old = HandlerRecord("old", HandlerState.RETRY, 4, NOW, "why", NOW, NOW)
    verdicts = [
        Verdict("old", HandlerState.RETRY, "away"),
        Verdict("new", HandlerState.RETRY, "away"),
        Verdict("asks", HandlerState.RETRY, "429", timedelta(minutes=10)),
    ]
    settlement = conclude(claimed(4, unfinished=(old,)), verdicts, policy=RetryPolicy(), now=NOW, jitter=1.0)
    due = {result.handler: (result.due_at or NOW) - NOW for result in settlement.results}
    assert due == {"old": timedelta(seconds=32), "new": timedelta(seconds=2), "asks": timedelta(minutes=10)}
    assert settlement.available_at == NOW + timedelta(seconds=2)


def test_a_handler_is_given_up_when_its_window_is_over() -> None:
    policy = RetryPolicy(window=timedelta(hours=1))
    for since, state in ((59, EventState.PENDING), (60, EventState.DEAD_LETTER)):
        before = HandlerRecord("slow", HandlerState.RETRY, 4, NOW, "429", NOW, NOW - timedelta(minutes=since), 4)
        verdict = Verdict("slow", HandlerState.RETRY, "429", timedelta(minutes=1))
        settlement = conclude(claimed(4, unfinished=(before,)), [verdict], policy=policy, now=NOW, jitter=1.0)
        assert settlement.state is state


def test_time_in_which_nobody_tried_gives_nothing_up() -> None:
    """The clock was set by days, or the dispatcher was stopped for days, after the first failure."""
    for state in (HandlerState.RETRY, HandlerState.UNKNOWN):
        before = HandlerRecord("h", state, 1, NOW, "away", NOW, NOW - timedelta(days=4))
        verdict = Verdict("h", state, "away")
        settlement = conclude(claimed(1, unfinished=(before,)), [verdict], policy=RetryPolicy(), now=NOW, jitter=1.0)
        assert settlement.state is EventState.PENDING


@pytest.mark.parametrize("attempts", range(20))
def test_attempts_without_a_result_are_given_up_by_their_number_alone(attempts: int) -> None:
    """A process that is killed again and again for days says nothing of its handlers."""
    before = HandlerRecord("h", HandlerState.UNKNOWN, attempts, NOW, "no result", NOW, NOW - timedelta(days=4))
    verdict = Verdict("h", HandlerState.UNKNOWN, "no result")
    event = claimed(attempts, unfinished=(before,) if attempts else ())
    settlement = conclude(event, [verdict], policy=RetryPolicy(), now=NOW, jitter=1.0)
    assert settlement.state is (EventState.PENDING if attempts < 19 else EventState.DEAD_LETTER)


died, fails, days = Verdict("h", HandlerState.UNKNOWN), Verdict("h", HandlerState.RETRY), timedelta(days=4)
verdicts = st.one_of(
    st.just(died),
    st.just(fails),
    st.integers(0, 48).map(lambda hours: Verdict("h", HandlerState.RETRY, "429", timedelta(hours=hours))),
)
moves = st.one_of(st.just(timedelta(0)), st.integers(-240, 240).map(lambda hours: timedelta(hours=hours)))


@given(st.lists(st.tuples(verdicts, moves), min_size=20, max_size=20))
@example(
    [*[(died, timedelta(hours=18))] * 6, *[(fails, timedelta(0))] * 14]
)  # days of deaths, and one ordinary failure
@example([(died, days), *[(fails, days)] * 19])
@example([*[(fails, timedelta(hours=1)), (died, timedelta(days=1))] * 10])
@example([(fails, timedelta(0)), *[(died, timedelta(days=1))] * 4, *[(fails, timedelta(days=1))] * 15])
@example([(fails, timedelta(days=-3)), *[(fails, timedelta(days=3))] * 19])
def test_a_handler_is_given_up_after_20_attempts_or_when_its_window_is_over_for_enough_results(
    steps: list[tuple[Verdict, timedelta]],
) -> None:
    """Whatever dies and fails, and however the clock moves; as the SQLite log keeps outcomes."""
    policy, now, text = RetryPolicy(), NOW, None
    results: list[datetime] = []
    for attempt, (verdict, moved) in enumerate(steps, 1):
        before = tuple(outcomes.read(text))
        settlement = conclude(claimed(attempt, unfinished=before), [verdict], policy=policy, now=now, jitter=1.0)
        (result,) = settlement.results
        wait = policy.delay(attempt, jitter=1.0) if verdict.retry_after is None else verdict.retry_after
        over = False
        if verdict.state is HandlerState.RETRY:
            results.append(now)
            over = len(results) >= 5 and now + min(wait, timedelta(hours=24)) - results[0] > policy.window
        assert (result.state is HandlerState.FAILED) == (attempt == 20 or over)
        if result.due_at is None:
            return
        text = outcomes.merge(text, settlement.results, to_microseconds(now))
        now = result.due_at + moved
    pytest.fail("it was never given up")


def test_one_attempt_without_a_result_is_repeated_at_once_and_many_are_given_up() -> None:
    verdict = Verdict("fatal", HandlerState.UNKNOWN, "no result")
    first = conclude(claimed(), [verdict], policy=RetryPolicy(), now=NOW, jitter=1.0)
    assert (first.state, first.available_at) == (EventState.PENDING, NOW)
    assert first.results[0].state is HandlerState.UNKNOWN
    before = HandlerRecord("fatal", HandlerState.UNKNOWN, 1, NOW, "no result", NOW, NOW)
    second = conclude(claimed(1, unfinished=(before,)), [verdict], policy=RetryPolicy(), now=NOW, jitter=1.0)
    assert second.available_at == NOW + timedelta(seconds=4)
    before = HandlerRecord("fatal", HandlerState.UNKNOWN, 19, NOW, "no result", NOW, NOW)
    last = conclude(claimed(19, unfinished=(before,)), [verdict], policy=RetryPolicy(), now=NOW, jitter=1.0)
    assert last.state is EventState.DEAD_LETTER
    assert last.error == "fatal: no result (given up after 20 attempts)"


@given(st.integers(0, 10**7))
def test_an_event_is_put_back_for_as_long_as_it_is_old_within_bounds(seconds: int) -> None:
    wait = put_back_for(NOW - timedelta(seconds=seconds), NOW).total_seconds()
    assert wait == min(max(seconds, 2), 120)


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


def test_each_wish_counts_but_not_more_than_a_day() -> None:
    wishes = [judge(f"h{seconds}", RetryError(retry_after=seconds)) for seconds in (5, 60)]
    settlement = conclude(claimed(), wishes, policy=RetryPolicy(), now=NOW, jitter=0)
    assert settlement.available_at == NOW + timedelta(seconds=5)
    assert [result.due_at for result in settlement.results] == [NOW + timedelta(seconds=wait) for wait in (5, 60)]
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
