"""Traits, properties and other JSON objects, read by any spelling of their keys (contract 5.4, case 83)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any


def normalise(name: str) -> str:
    """Reduce a key to what its spellings have in common: ``First Name``, ``first_name`` and ``firstName`` are one."""
    return _normalise(name) if len(name) > _LONGEST_REMEMBERED else _normalise_and_remember(name)


def _normalise(name: str) -> str:
    return "".join(character for character in name if character.isalnum()).casefold()


def _spellings(names: tuple[str, ...]) -> Mapping[str, str]:
    return {normalise(name): name for name in reversed(names)}


_LONGEST_REMEMBERED = 64
_MOST_REMEMBERED = 32
_spellings_of_shape = lru_cache(maxsize=512)(_spellings)


def _find_all(names: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str | None, ...]:
    spellings = _spellings(names)
    return tuple(name if name in names else spellings.get(normalise(name)) for name in wanted)


_find_all_in_shape = lru_cache(maxsize=512)(_find_all)


def spellings_of(raw: Mapping[str, Any], wanted: tuple[str, ...]) -> tuple[str | None, ...]:
    """Return how each of the wanted keys is spelled in an object, ``None`` for those that are not there."""
    names = tuple(raw)
    return _find_all_in_shape(names, wanted) if _is_small(names) else _find_all(names, wanted)


def _is_small(names: tuple[str, ...]) -> bool:
    """Tell whether what was found out about an object with these keys may be remembered.

    Most events have one of a few shapes, so what their keys have in common is worked out once.
    """
    return len(names) <= _MOST_REMEMBERED and len("".join(names)) <= _MOST_REMEMBERED * _LONGEST_REMEMBERED


_normalise_and_remember = lru_cache(maxsize=4_096)(_normalise)


class Fields(Mapping[str, Any]):
    """A read-only JSON object whose keys may be asked for in any case and style.

    The exact key wins; otherwise the first key that differs only in case and separators. Objects inside come out
    as ``Fields`` too, in lists as well. Iteration gives the keys as they were sent. ``None`` is a value: Segment
    sends ``null`` to clear a trait, while a trait that is absent stays as it is (contract 6.6).
    """

    __slots__ = ("_by_name", "raw")

    def __init__(self, raw: object = None) -> None:
        self.raw: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
        self._by_name: Mapping[str, str] | None = None

    def __getitem__(self, key: str) -> Any:
        return _wrap(self.raw[self.spelling(key)])

    def spelling(self, key: str) -> str:
        """Return how a key is spelled in ``raw``.

        Raises:
            KeyError: it is not there in any spelling.
        """
        found = self._find(key)
        if found is None:
            raise KeyError(key)
        return found

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or ``default`` when the key is there in no spelling."""
        found = self._find(key)
        return default if found is None else _wrap(self.raw[found])

    def _find(self, key: str) -> str | None:
        if key in self.raw:
            return key
        if self._by_name is None:
            names = tuple(self.raw)
            self._by_name = _spellings_of_shape(names) if _is_small(names) else _spellings(names)
        wanted = normalise(key)
        return self._by_name.get(wanted) if wanted else None

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"Fields({', '.join(self.raw)})"

    def text(self, key: str) -> str | None:
        """Return a value as text; ``None`` when it is absent, null, empty or not a scalar."""
        value = self.raw.get(key)
        if type(value) is str and not value.isspace():
            return value or None
        return as_text(self.get(key))

    def decimal(self, key: str) -> Decimal | None:
        """Return a number, also when it was sent as a string (``"39.95"``); ``None`` when it is none."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            number = Decimal(str(value).strip())
        except InvalidOperation:
            return None
        # Beyond the range of a double it is nonsense, and adding it up could overflow.
        return number if number.is_finite() and math.isfinite(number) else None

    def fields(self, key: str) -> Fields:
        """Return an object inside this one; an empty one when it is absent, null, ``[]`` or no object."""
        value = self.get(key)
        return value if isinstance(value, Fields) else Fields()


def as_text(value: object) -> str | None:
    """Return a scalar as text: numbers as JavaScript would write them, blank text and other types as ``None``."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _wrap(value: Any) -> Any:
    if isinstance(value, dict):
        return Fields(value)
    if isinstance(value, list):
        return [_wrap(item) for item in value]
    return value
