"""Scripted faults: what to do to the next requests on a route instead of, or after, answering them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


class InvalidFault(ValueError):
    """A fault description that cannot be understood; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to go wrong. The parts combine: a delay can come before a status or a reset.

    `after` lets the request take effect first and spoils only its answer, as when a response is lost.
    `delay_seconds` is real time, because the caller's timeout is.
    """

    status: int | None = None
    body: str = ""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    reset: bool = False
    malformed_json: bool = False
    after: bool = False

    @property
    def replaces_answer(self) -> bool:
        """Whether the caller gets something other than the sandbox's own answer."""
        return self.reset or self.malformed_json or self.status is not None


@dataclass(slots=True)
class FaultRule:
    """A fault for the next `times` requests whose `METHOD /path` matches `route` in full; None: for all."""

    id: int
    route: re.Pattern[str]
    fault: Fault
    times: int | None
    used: int = 0

    @property
    def spent(self) -> bool:
        return self.times is not None and self.used >= self.times

    def as_dict(self) -> dict[str, object]:
        return {
            "id": self.id,
            "route": self.route.pattern,
            "times": self.times,
            "used": self.used,
            "fault": asdict(self.fault),
        }


class Faults:
    """The scripted faults in the order they were added; the first live one that matches is used."""

    def __init__(self) -> None:
        self.rules: list[FaultRule] = []

    def add(self, route: str, fault: Fault, times: int | None = 1) -> FaultRule:
        """Script a fault. Raises `InvalidFault` when `route` is not a regular expression."""
        try:
            pattern = re.compile(route)
        except re.error as error:
            raise InvalidFault(f"route is not a regular expression: {error}") from error
        rule = FaultRule(len(self.rules) + 1, pattern, fault, times)
        self.rules.append(rule)
        return rule

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for this request, counted as used."""
        for rule in self.rules:
            if not rule.spent and rule.route.fullmatch(f"{method} {path}"):
                rule.used += 1
                return rule.fault
        return None

    def clear(self) -> None:
        self.rules.clear()


def parse_rule(body: Mapping[str, object]) -> tuple[str, Fault, int | None]:
    """Read `{"route", "times", "fault": {...}}`. Without `times` it happens once; null means for ever.

    Raises `InvalidFault`.
    """
    route, times, fault = body.get("route"), body.get("times", 1), body.get("fault")
    if not isinstance(route, str) or not isinstance(fault, dict):
        raise InvalidFault("A fault rule needs a route (a regular expression) and a fault (an object).")
    if times is not None and (type(times) is not int or times < 1):
        raise InvalidFault("times is a whole number of at least 1, or null for no end.")
    return route, parse_fault(fault), times


def parse_fault(given: Mapping[str, object]) -> Fault:
    """Read one fault. Raises `InvalidFault` for an unknown part or a value of the wrong kind."""
    for key, value in given.items():
        kinds = _KINDS.get(key)
        if kinds is None:
            raise InvalidFault(f"A fault has no part {key!r}. Known: {', '.join(_KINDS)}.")
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InvalidFault(f"The fault's {key} has the wrong type.")
    body = given.get("body", "")
    parts = {**given, "body": body if isinstance(body, str) else json.dumps(body)}
    fault = Fault(**parts)  # type: ignore[arg-type]  # each part's type was checked above
    if fault.status is not None and not 200 <= fault.status <= 599:
        raise InvalidFault("The fault's status is between 200 and 599.")
    if not fault.replaces_answer and not fault.delay_seconds:
        raise InvalidFault("The fault does nothing: give a status, delay_seconds, reset or malformed_json.")
    return fault


_KINDS: Mapping[str, tuple[type, ...]] = {
    "status": (int,),
    "body": (str, dict, list),
    "content_type": (str,),
    "headers": (dict,),
    "delay_seconds": (int, float),
    "reset": (bool,),
    "malformed_json": (bool,),
    "after": (bool,),
}
