"""What follows from how the handlers of an event ended: pure decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from enable_with_segment.components.errors import (
    EventNotSupported,
    HandlerError,
    InvalidEventPayload,
    RetryError,
    ValidationError,
)
from enable_with_segment.components.event import Event
from enable_with_segment.db.backoff import RetryPolicy
from enable_with_segment.db.event_log.records import UNFINISHED, ClaimedEvent, HandlerRecord, HandlerResult, Settlement
from enable_with_segment.db.event_log.states import EventState, HandlerState

DELETED = "the person was deleted at or after the event's time"
_MAX_REASON = 500
LONGEST_WAIT = timedelta(hours=24)
"""What a handler may ask for; no event waits for longer than that."""
_SHORTEST_PUT_BACK = timedelta(seconds=2)
_LONGEST_PUT_BACK = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one call of one handler means for one event."""

    handler: str
    state: HandlerState
    reason: str | None = None
    retry_after: timedelta | None = None


def judge(handler: str, error: BaseException | None) -> Verdict:
    """Translate a handler's exception, or its absence, into a verdict (see ``components.errors``)."""
    match error:
        case None:
            return Verdict(handler, HandlerState.DONE)
        case EventNotSupported():
            return Verdict(handler, HandlerState.UNSUPPORTED, _reason(error))
        case InvalidEventPayload() | ValidationError():
            return Verdict(handler, HandlerState.FAILED, _reason(error))
        case RetryError(retry_after=wait):
            return Verdict(handler, HandlerState.RETRY, _reason(error), wait)
        case TimeoutError() if not _text(error):
            return Verdict(handler, HandlerState.RETRY, "it took too long")
        case _:
            return Verdict(handler, HandlerState.RETRY, _reason(error))


def batch_errors(answer: object, events: Sequence[Event]) -> list[BaseException | None]:
    """Read what a batch handler returned: ``None``, a list with an entry for each event, or a mapping of message ids.

    An answer of another shape speaks for no event, so all of them are tried again, with a reason that says why.
    """
    if answer is None:
        return [None] * len(events)
    if isinstance(answer, Mapping):
        return [_error(answer.get(event.message_id)) for event in events]
    if isinstance(answer, Sequence) and not isinstance(answer, str | bytes) and len(answer) == len(events):
        return [_error(item) for item in answer]
    problem = TypeError("the batch handler has to return None, one entry for each event, or {message id: exception}")
    return [problem] * len(events)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A handler that was not called this time: until when it waits, and why."""

    handler: str
    until: datetime
    reason: str


def conclude(
    claimed: ClaimedEvent,
    verdicts: Sequence[Verdict],
    *,
    waiting: Sequence[Waiting] = (),
    policy: RetryPolicy,
    now: datetime,
    jitter: float,
) -> Settlement:
    """Decide what becomes of an event after an attempt.

    Each handler has attempts and waits of its own. As long as one of them may still be called the event is pending,
    and due when the first of them is. After that it is a dead letter if any of them failed. Handlers of earlier
    attempts count as they ended then.
    """
    before = {outcome.handler: outcome for outcome in claimed.unfinished}
    results = tuple(_result(verdict, before.get(verdict.handler), policy, now, jitter) for verdict in verdicts)
    due = [result.due_at for result in results if result.due_at is not None]
    if due or waiting:
        again = [f"{result.handler}: {result.error}" for result in results if result.due_at is not None]
        again += [f"{other.handler}: {other.reason}" for other in waiting]
        return Settlement(
            claimed.id,
            claimed.lease,
            EventState.PENDING,
            now,
            results=results,
            error="; ".join(again),
            available_at=max(now, min([*due, *(other.until for other in waiting)])),
            attempted=bool(verdicts),
        )
    everything = (*claimed.finished, *results)
    failed = [result for result in everything if result.state is HandlerState.FAILED]
    if failed:
        state = EventState.DEAD_LETTER
    elif claimed.suppressed:  # a late merge, whose other id was deleted
        state = EventState.SUPPRESSED
    elif any(result.state is HandlerState.DONE for result in everything):
        state = EventState.HANDLED
    else:
        state = EventState.UNSUPPORTED
    error = "; ".join(f"{result.handler}: {result.error}" for result in failed) or None
    if claimed.suppressed and not failed:
        error = DELETED
    elif not everything:
        error = "no handler wants this event"
    attempted = bool(verdicts) or not claimed.finished
    return Settlement(claimed.id, claimed.lease, state, now, results=results, error=error, attempted=attempted)


def put_back_for(received_at: datetime, now: datetime) -> timedelta:
    """Return how long an event waits for a handler that cannot take it: as long as it is old, from 2 s to 2 min.

    So a long queue costs little: an event is looked at less and less often as it gets old.
    """
    return min(max(now - received_at, _SHORTEST_PUT_BACK), _LONGEST_PUT_BACK)


def _result(
    verdict: Verdict, before: HandlerRecord | None, policy: RetryPolicy, now: datetime, jitter: float
) -> HandlerResult:
    if verdict.state not in UNFINISHED:
        return HandlerResult(verdict.handler, verdict.state, verdict.reason)
    attempt = 1 if before is None else before.attempts + 1
    has_result = verdict.state is not HandlerState.UNKNOWN
    results = has_result + (0 if before is None else before.results)
    since = now if before is None or before.since is None else before.since
    if verdict.retry_after is not None:
        wait = min(max(verdict.retry_after, timedelta(0)), LONGEST_WAIT)
    elif verdict.state is HandlerState.UNKNOWN and attempt == 1:
        wait = timedelta(0)  # the process was most likely only restarted
    else:
        wait = policy.delay(attempt, jitter=jitter)
    # Nobody asked for the time that passes while processes die: attempts without a result are counted only.
    in_time = not has_result or now + wait - since <= policy.window or results < policy.least_attempts
    if attempt < policy.attempts and in_time:
        return HandlerResult(verdict.handler, verdict.state, verdict.reason, now + wait)
    times = "1 attempt" if attempt == 1 else f"{attempt} attempts"
    return HandlerResult(verdict.handler, HandlerState.FAILED, f"{verdict.reason} (given up after {times})")


def _reason(error: BaseException) -> str:
    text = _text(error).replace("\0", "\ufffd").encode(errors="replace").decode()[:_MAX_REASON]
    if isinstance(error, HandlerError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the handler's own class; its name has to do
        return ""


def _error(item: object) -> BaseException | None:
    if item is None or isinstance(item, BaseException):
        return item
    return TypeError("a batch handler's entry for an event has to be None or an exception")
