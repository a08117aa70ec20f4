"""What an error text says of its cause: without what differs from event to event, and without what names a person."""

from __future__ import annotations

import re
from collections.abc import Iterator

from enable_with_segment.components.event import EVENT_TYPES
from enable_with_segment.components.event_reader import REFUSALS

_MOST_DIGITS = 3
_QUOTED = """'[^']*'|"[^"]*\""""
_QUOTED_OR_CUT_OFF = """'[^']*(?:'|$)|"[^"]*(?:"|$)"""
_IN_ADDRESS = r"\w.+%!#$&*^~-"
_UNQUOTED = rf"""
    |(?<![{_IN_ADDRESS}])[{_IN_ADDRESS}]+(?:@|%40)[@{_IN_ADDRESS}]*   # e-mail addresses, and what sticks to them
    |\b[0-9a-fA-F]{{8}}[0-9a-fA-F-]{{8,}}\b                            # UUIDs, hashes
    |\b(?=[A-Za-z]*\d)[A-Za-z0-9]{{10,}}\b                           # ids of letters and digits
    |(?<=_)(?=[A-Za-z]*\d)[A-Za-z0-9]{{10,}}\b                       # those with a prefix, as in cus_NffrFeUfNV2Hib
    |\d+
"""
_WHAT_VARIES = re.compile(_QUOTED + _UNQUOTED, re.VERBOSE)
_WHAT_VARIES_BEFORE_A_HANDLER = re.compile(_QUOTED_OR_CUT_OFF + _UNQUOTED, re.VERBOSE)
_TYPES = "|".join(EVENT_TYPES)
_FIRST_HANDLER = re.compile(rf"(?P<name>[^():;]+) \((?P<type>{_TYPES})(?: (?P<event>[^\n]+?))?\): ")
_NEXT_HANDLER = re.compile(rf"; (?P<name>[^\W\d][\w-]*) \((?P<type>{_TYPES})(?: (?P<event>[^;\n]+?))?\): ")
_STATUS = re.compile(r"the endpoint answered \d{3}\b")  # of an HttpSink: each status is a cause of its own
_ONE_ATTEMPT = "(given up after 1 attempt)"


def cause_of(error: str | None, *, event: str | None = None) -> str:
    """Return a dead letter's reason without what differs from event to event, so that one cause has one text.

    The service's own sentences and the names of handlers stay. Of what handlers said, numbers, ids, e-mail addresses
    and what stands in quotes are replaced by ``…``.

    Args:
        event: the track event's name.
    """
    if error is None or error in REFUSALS:
        return error or "no reason was given"
    first = _FIRST_HANDLER.match(error)
    if first is None:
        return _WHAT_VARIES.sub("…", error)
    cause, at = first[0], first.end()
    for other in _others(error, at, type=first["type"], event=event):
        cause += _of_handler(error[at : other.start()], _WHAT_VARIES_BEFORE_A_HANDLER) + other[0]
        at = other.end()
    return cause + _of_handler(error[at:], _WHAT_VARIES)


def _others(error: str, start: int, *, type: str, event: str | None) -> Iterator[re.Match[str]]:
    """Find where the reasons of further handlers begin.

    A handler's own text may look like that, too. So nothing passes for a handler that is more than a word with a digit
    or two, or that would not have been given this event.
    """
    name = (event or "").strip().casefold()
    for found in _NEXT_HANDLER.finditer(error, start):
        wanted = found["event"]
        takes_it = found["type"] == type and (wanted is None or wanted.strip().casefold() == name)
        if takes_it and sum(character.isdigit() for character in found["name"]) <= _MOST_DIGITS:
            yield found


def _of_handler(reason: str, varies: re.Pattern[str]) -> str:
    if reason.endswith(_ONE_ATTEMPT):
        reason = f"{reason.removesuffix(_ONE_ATTEMPT)}(given up after 1 attempts)"
    status = _STATUS.match(reason)
    own = status[0] if status else ""
    return own + varies.sub("…", reason[len(own) :])
