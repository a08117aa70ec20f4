"""One strict parse of what a sender wrote: whatever two parsers could read differently is refused."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_DIGITS = 309
# The quote at the end begins a string that does not end.
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}"]', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonInvalid(ValueError):
    """The text is not JSON that can be used; the message says why without quoting it."""


def parse(body: bytes, *, max_depth: int) -> Any:
    """Parse UTF-8 JSON; a byte order mark in front is tolerated.

    Raises:
        JsonInvalid: not UTF-8, not JSON, ``NaN`` or ``Infinity``, a number outside the range of a double, a key used
            twice in one object, half of a surrogate pair, or nesting deeper than ``max_depth``.
    """
    body = body.removeprefix(_BYTE_ORDER_MARK)
    if body.count(b"[") + body.count(b"{") > max_depth and _depth(body) > max_depth:
        raise JsonInvalid(f"it is nested deeper than {max_depth} levels")
    try:
        value = orjson.loads(body)
        if orjson.dumps(value) == body:
            # Written back it is the same text: no key stands in it twice, and every number is what it says. That is
            # how most senders write, and faster than the careful way, which decides everything else.
            return value
    except ValueError:
        pass
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise JsonInvalid("it is not UTF-8") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except json.JSONDecodeError as error:
        raise JsonInvalid(f"it is not JSON (line {error.lineno}, column {error.colno})") from None
    if _SURROGATE.search(body):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise JsonInvalid("it holds half of a surrogate pair") from None
    return value


def _depth(body: bytes) -> int:
    depth = deepest = 0
    for match in _STRING_OR_BRACKET.finditer(body):
        token = match.group()
        if token in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif token in (b"]", b"}"):
            depth -= 1
        elif token == b'"':
            # All the rest is in it, and it is no JSON. Going on would look for an end again at each escaped quote.
            break
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise JsonInvalid("it holds an object with the same key twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise JsonInvalid(f"{name} is not JSON")


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise JsonInvalid("it holds a number that is too large")
    return number


def _int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise JsonInvalid("it holds a number that is too large")
    return int(digits)
