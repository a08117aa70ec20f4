"""The newest outcome of each handler of an event, as the text that stands in the event's row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

import orjson

from enable_with_segment.db.event_log.instants import to_instant, to_microseconds
from enable_with_segment.db.event_log.records import RETRIED, HandlerRecord, HandlerResult
from enable_with_segment.db.event_log.states import HandlerState


def read(text: str | None) -> list[HandlerRecord]:
    """Return the outcomes, in the order of the handlers' names."""
    if text is None:
        return []
    return [
        HandlerRecord(
            handler,
            HandlerState(state),
            attempts,
            to_instant(at),
            error,
            None if due_at is None else to_instant(due_at),
            None if since is None else to_instant(since),
            *results,  # logs of earlier versions have none
        )
        for handler, state, attempts, at, error, due_at, since, *results in sorted(orjson.loads(text))
    ]


def merge(text: str | None, results: Sequence[HandlerResult], at: int) -> str | None:
    """Put the outcomes of an attempt over the earlier ones."""
    if not results:
        return text
    outcomes = {} if text is None else {outcome[0]: outcome for outcome in orjson.loads(text)}
    for result in results:
        attempts, since, count = 0, None, 0
        if result.handler in outcomes:
            _, _, attempts, _, _, _, since, *counted = outcomes[result.handler]
            count = sum(counted)
        if result.state is not HandlerState.UNKNOWN:
            since, count = at if since is None else since, count + 1
        outcomes[result.handler] = [
            result.handler,
            result.state.value,
            attempts + 1,
            at,
            result.error,
            None if result.due_at is None else to_microseconds(result.due_at),
            since,
            count,
        ]
    return orjson.dumps(list(outcomes.values())).decode()


def without_errors(text: str | None) -> str | None:
    """Remove the error texts; they may quote the person."""
    return None if text is None else _write([replace(outcome, error=None) for outcome in read(text)])


def only_done(text: str | None) -> str | None:
    """Keep what handlers finished well, so that only the others are called again."""
    return None if text is None else _write([outcome for outcome in read(text) if outcome.state not in RETRIED])


def of_others(text: str | None, handler: str, *, skipped: Collection[str], at: datetime) -> str:
    """Forget what one handler made of the event, and note which have not finished with it and are not called."""
    kept = [outcome for outcome in read(text) if outcome.finished and outcome.handler != handler]
    missing = {*skipped} - {outcome.handler for outcome in kept}
    return _write([*kept, *(HandlerRecord(other, HandlerState.SKIPPED, 0, at, None) for other in sorted(missing))])


def _write(outcomes: Sequence[HandlerRecord]) -> str:
    rows = [
        [
            outcome.handler,
            outcome.state.value,
            outcome.attempts,
            to_microseconds(outcome.at),
            outcome.error,
            None if outcome.due_at is None else to_microseconds(outcome.due_at),
            None if outcome.since is None else to_microseconds(outcome.since),
            outcome.results,
        ]
        for outcome in outcomes
    ]
    return orjson.dumps(rows).decode()
