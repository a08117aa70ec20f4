"""One strict parse of a sender's JSON: text that two parsers could read differently is refused.

Every step is a pass of compiled code over the text, so the cost follows its size and not its content (WH-18).
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any

import orjson

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MOST_DIGITS = 309
_MOST_BRACKETS = 40_000
"""An event of Segment's largest size, 32 KB, has at most as many."""
_STRING = re.compile(rb'"[^"\\]*+(?:\\.?+[^"\\]*+)*+"?+', re.DOTALL)  # one that does not end reaches to the end
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = [1 if byte in b"[{" else -1 for byte in range(256)]


class JsonInvalid(ValueError):
    """The text is not JSON that can be used; the message says why without quoting it."""


def parse(body: bytes, *, max_depth: int) -> Any:
    """Parse UTF-8 JSON; a byte order mark in front is tolerated. A lone half of a surrogate pair is read as U+FFFD.

    Raises:
        JsonInvalid: not UTF-8, not JSON, ``NaN`` or ``Infinity``, a number outside the range of a double, a key used
            twice in one object, more than 20,000 objects and lists, or nesting deeper than ``max_depth``.
    """
    body = body.removeprefix(_BYTE_ORDER_MARK)
    if body.count(b"[") + body.count(b"{") > max_depth:
        _check_structure(body, max_depth)
    try:
        value = orjson.loads(body)
    except ValueError:
        return _parse_halves(body)
    # Written back it is the same text: no key stands in it twice, and every number is what it says. Most senders write
    # like that.
    return value if orjson.dumps(value) == body else _load(body)


def _check_structure(body: bytes, max_depth: int) -> None:
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    if len(brackets) > _MOST_BRACKETS:
        raise JsonInvalid(f"it holds more than {_MOST_BRACKETS // 2} objects and lists")
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > max_depth:
        raise JsonInvalid(f"it is nested deeper than {max_depth} levels")


def _load(body: bytes) -> Any:
    """Parse with exact integers; a key that stands twice in one object is refused."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise JsonInvalid("it is not UTF-8") from None
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
        try:
            orjson.dumps(value)
        except TypeError:  # half of a surrogate pair, or an integer of more than 64 bits
            value = json.loads(text, object_pairs_hook=_object, parse_int=_int)
    except json.JSONDecodeError as error:
        raise JsonInvalid(f"it is not JSON (line {error.lineno}, column {error.colno})") from None
    except JsonInvalid:
        raise
    except ValueError:  # an integer of thousands of digits
        raise JsonInvalid("it holds a number that is too large") from None
    return value


def _parse_halves(body: bytes) -> Any:
    """Parse what ``orjson`` refuses: halves of surrogate pairs, or a text that is no JSON."""
    value = _load(body)
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise JsonInvalid("it holds a number that is too large") from None
    if not _SURROGATE.search(body):
        return value
    whole = written.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value if whole == written else json.loads(whole)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise JsonInvalid("it holds an object with the same key twice")
    return found


def _int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise JsonInvalid("it holds a number that is too large")
    return int(digits)


def _refuse_constant(name: str) -> Any:
    raise JsonInvalid(f"{name} is not JSON")
