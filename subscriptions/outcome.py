"""What follows from how the handlers of an event ended: pure decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from db.event_log.records import ClaimedEvent, HandlerResult, Settlement
from db.event_log.tables import EventState, HandlerState
from subscriptions.backoff import RetryPolicy
from subscriptions.errors import EventNotSupported, HandlerError, InvalidEventPayload, RetryError, ValidationError
from subscriptions.event import Event

_MAX_REASON = 500
_MAX_WAIT = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one call of one handler means for one event."""

    handler: str
    state: HandlerState
    reason: str | None = None
    retry_after: timedelta | None = None


def judge(handler: str, error: BaseException | None) -> Verdict:
    """Translate a handler's exception, or its absence, into a verdict (see ``subscriptions.errors``)."""
    match error:
        case None:
            return Verdict(handler, HandlerState.DONE)
        case EventNotSupported():
            return Verdict(handler, HandlerState.UNSUPPORTED, _reason(error))
        case InvalidEventPayload() | ValidationError():
            return Verdict(handler, HandlerState.FAILED, _reason(error))
        case RetryError(retry_after=wait):
            return Verdict(handler, HandlerState.RETRY, _reason(error), wait)
        case TimeoutError() if not str(error):
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


def conclude(
    claimed: ClaimedEvent, verdicts: Sequence[Verdict], *, policy: RetryPolicy, now: datetime, jitter: float
) -> Settlement:
    """Decide what becomes of an event after an attempt.

    Any handler that may be tried again keeps the event pending until the attempts are used up; then, or when a
    handler failed for good, it is a dead letter. Handlers of earlier attempts count as they ended then.
    """
    attempt = claimed.attempts + 1
    retries = [verdict for verdict in verdicts if verdict.state is HandlerState.RETRY]
    if retries and attempt < policy.attempts:
        asked = [verdict.retry_after for verdict in retries if verdict.retry_after is not None]
        wait = min(max(asked), _MAX_WAIT) if asked else policy.delay(attempt, jitter=jitter)
        return Settlement(
            claimed.id,
            claimed.lease,
            EventState.PENDING,
            now,
            results=tuple(HandlerResult(verdict.handler, verdict.state, verdict.reason) for verdict in verdicts),
            error=_reasons(retries),
            available_at=now + max(wait, timedelta(0)),
        )
    results = tuple(_final(verdict, attempt) for verdict in verdicts)
    everything = (*claimed.finished, *results)
    failed = [result for result in everything if result.state is HandlerState.FAILED]
    if failed:
        state = EventState.DEAD_LETTER
    elif any(result.state is HandlerState.DONE for result in everything):
        state = EventState.HANDLED
    else:
        state = EventState.UNSUPPORTED
    error = "; ".join(f"{result.handler}: {result.error}" for result in failed) or None
    if not everything:
        error = "no handler wants this event"
    return Settlement(claimed.id, claimed.lease, state, now, results=results, error=error)


def _final(verdict: Verdict, attempt: int) -> HandlerResult:
    if verdict.state is HandlerState.RETRY:
        times = "1 attempt" if attempt == 1 else f"{attempt} attempts"
        return HandlerResult(verdict.handler, HandlerState.FAILED, f"{verdict.reason} (given up after {times})")
    return HandlerResult(verdict.handler, verdict.state, verdict.reason)


def _reasons(verdicts: Sequence[Verdict]) -> str:
    return "; ".join(f"{verdict.handler}: {verdict.reason}" for verdict in verdicts)


def _reason(error: BaseException) -> str:
    text = str(error).replace("\0", "\ufffd").encode(errors="replace").decode()[:_MAX_REASON]
    if isinstance(error, HandlerError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _error(item: object) -> BaseException | None:
    if item is None or isinstance(item, BaseException):
        return item
    return TypeError("a batch handler's entry for an event has to be None or an exception")
