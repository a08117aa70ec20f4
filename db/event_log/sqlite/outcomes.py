"""The newest outcome of each handler of an event, as the text that stands in the event's row."""

from __future__ import annotations

import json
from collections.abc import Sequence

from db.event_log.records import HandlerRecord, HandlerResult
from db.event_log.sqlite.instants import to_instant
from db.event_log.tables import HandlerState


def read(text: str | None) -> list[HandlerRecord]:
    """Return the outcomes, in the order of the handlers' names."""
    if text is None:
        return []
    return [
        HandlerRecord(handler, HandlerState(state), attempts, to_instant(at), error)
        for handler, state, attempts, at, error in sorted(json.loads(text), key=lambda outcome: outcome[0])
    ]


def finished(text: str | None) -> tuple[HandlerResult, ...]:
    """Return the outcomes of handlers that need not be called again."""
    return tuple(
        HandlerResult(outcome.handler, outcome.state, outcome.error)
        for outcome in read(text)
        if outcome.state is not HandlerState.RETRY
    )


def merge(text: str | None, results: Sequence[HandlerResult], at: int) -> str | None:
    """Put the outcomes of an attempt over the earlier ones."""
    if not results:
        return text
    outcomes = {} if text is None else {outcome[0]: outcome for outcome in json.loads(text)}
    for result in results:
        earlier = outcomes.get(result.handler)
        attempts = 1 if earlier is None else earlier[2] + 1
        outcomes[result.handler] = [result.handler, result.state.value, attempts, at, result.error]
    return json.dumps(list(outcomes.values()), separators=(",", ":"))


def without_errors(text: str | None) -> str | None:
    """Remove the error texts; they may quote the person."""
    if text is None:
        return None
    return json.dumps([[*outcome[:4], None] for outcome in json.loads(text)], separators=(",", ":"))


def only_done(text: str | None) -> str | None:
    """Keep what handlers finished well, so that only the others are called again."""
    if text is None:
        return None
    again = (HandlerState.FAILED, HandlerState.RETRY)
    return json.dumps([outcome for outcome in json.loads(text) if outcome[1] not in again], separators=(",", ":"))
