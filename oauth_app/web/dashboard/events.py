"""Events in the dashboard: the newest and those before, one receipt, dead letters and trying them again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlencode

from starlette.responses import Response

from enable_with_segment.db.event_log.records import EventFilter, EventPage
from enable_with_segment.db.event_log.states import EventState
from enable_with_segment.oauth_app.operators.actions import Act
from enable_with_segment.oauth_app.web.dashboard.access import Visit
from enable_with_segment.oauth_app.web.dashboard.payloads import in_full, masked

_SHOWN = 100
_MOST_DIGITS = 15
_FILTERS = ("account", "type", "message_id", "install", "state")


async def list_events(visit: Visit) -> Response:
    """The newest events that match, or those before."""
    query = {name: value.strip()[:200] for name, value in visit.request.query_params.items()}
    state = query.get("state", "")
    wanted = EventFilter(
        account=_text(query, "account"),
        type=_text(query, "type"),
        install_id=_text(query, "install"),
        message_id=_text(query, "message_id"),
        state=EventState(state) if state in set(EventState) else None,
    )
    found = await visit.services.event_log.search(wanted, limit=_SHOWN, before_id=_before(query))
    asked = {name: value for name in _FILTERS if (value := query.get(name))}
    states = [state.value for state in EventState]
    return visit.page("events.html", page=found, wanted=wanted, states=states, older=_older(found, asked))


async def show_event(visit: Visit) -> Response:
    """What became of one messageId; its body is masked (WH-16)."""
    return await _receipt(visit, visit.request.path_params["message_id"], clear=False)


async def show_payload(visit: Visit) -> Response:
    """The same with its body in clear, for an operator who says why."""
    message_id = visit.form.get("message_id", "")
    await visit.note(Act.SHOW_PAYLOAD, message_id[:200] if message_id.isprintable() else "unreadable")
    return await _receipt(visit, message_id, clear=True)


async def list_dead_letters(visit: Visit) -> Response:
    """Events that were given up."""
    before_id = _before(visit.request.query_params)
    wanted = EventFilter(state=EventState.DEAD_LETTER)
    found = await visit.services.event_log.search(wanted, limit=_SHOWN, before_id=before_id)
    return visit.page("dead_letters.html", page=found, older=_older(found, {}))


async def retry_dead_letters(visit: Visit) -> Response:
    """Let one dead letter, or all of them, be tried again."""
    chosen = visit.form.get("id", "")
    if chosen != "all" and not re.fullmatch(rf"[0-9]{{1,{_MOST_DIGITS}}}", chosen):
        return visit.message(400, "Which one?", "Name one dead letter, or all of them.")
    await visit.note(Act.RETRY_DEAD_LETTERS, f"event:{chosen}")
    ids = None if chosen == "all" else [int(chosen)]
    await visit.services.event_log.retry_dead_letters(ids, now=visit.services.clock())
    return visit.go_to("/dashboard/dead-letters")


async def _receipt(visit: Visit, message_id: str, *, clear: bool) -> Response:
    found = await visit.services.event_log.show(message_id) if message_id.isprintable() else []
    if not found:
        return visit.message(404, "No such event", "No event with this messageId was received, or it is gone.")
    shown = [(detail, None if detail.body is None else (in_full if clear else masked)(detail.body)) for detail in found]
    readable = any(payload is not None for _, payload in shown)
    return visit.page("event.html", message_id=message_id, shown=shown, clear=clear, readable=readable)


def _before(query: Mapping[str, str]) -> int | None:
    """Return the id that the events shown are to be older than."""
    before = query.get("before", "")
    return int(before) if re.fullmatch(rf"[0-9]{{1,{_MOST_DIGITS}}}", before) else None


def _older(page: EventPage, asked: Mapping[str, str]) -> str | None:
    """Return the query that goes on where a page ended; ``None`` at the end of the log."""
    return None if page.before_id is None else urlencode({**asked, "before": page.before_id})


def _text(query: dict[str, str], name: str) -> str | None:
    value = query.get(name)
    if not value:
        return None
    return value if value.isprintable() else "\N{REPLACEMENT CHARACTER}"
