"""Reading JSON as Segment's Config API does: strictly, or forgiving what its own documentation's examples contain."""

from __future__ import annotations

import json
import math
import re

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\'((?:[^\'\\]|\\.)*)\'')


class InvalidJson(ValueError):
    """The text is not JSON, or not the JSON that was needed."""


def parse_object(text: bytes, *, lenient: bool = False) -> dict[str, object]:
    """A JSON object. Lenient reading also takes single-quoted strings (contract 3.1). Raises `InvalidJson`."""
    try:
        source = text.decode()
    except UnicodeDecodeError as error:
        raise InvalidJson("body is not UTF-8") from error
    try:
        value = _loads(source)
    except (ValueError, RecursionError) as error:
        if not lenient:
            raise InvalidJson("body is not valid JSON") from error
        try:
            value = _loads(_QUOTED.sub(_double_quoted, source))
        except (ValueError, RecursionError):
            raise InvalidJson("body is not valid JSON") from error
    if not isinstance(value, dict):
        raise InvalidJson("body is not a JSON object")
    return value


def encode(value: object) -> bytes:
    """Compact JSON in UTF-8; text that UTF-8 cannot hold (lone surrogates) is escaped instead."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _loads(source: str) -> object:
    return json.loads(source, parse_constant=_refuse_constant, parse_float=_finite)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _double_quoted(match: re.Match[str]) -> str:
    if match.group(1) is None:
        return match.group(0)
    return json.dumps(match.group(1).replace("\\'", "'"))
