"""Custom settings of a destination: what the partner declares, and what a delivery's header makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from enable_with_segment.components.fields import Fields

SettingValue: TypeAlias = str | bool | int | float | list[Any] | dict[str, Any] | None


class SettingInvalid(ValueError):
    """A value does not fit a setting; the text names the setting and never repeats the value."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"The setting '{key}' {problem}.")
        self.key = key


@dataclass(frozen=True, slots=True)
class Setting:
    """One custom setting of the destination, as declared in Segment's portal.

    Args:
        key: the setting's key there (Segment makes it camelCase); any spelling finds it.
        type: ``str``, ``bool``, ``int``, ``float``, ``list`` or ``dict``. Text such as ``"true"`` or ``"7"`` is read.
        choices: the only values allowed.
        default: what handlers get when the customer's value is absent, or cannot be used.
        required: a delivery without a usable value is answered 400, naming the setting (contract case 73).
        label: what people call it; the key when left out.

    Raises:
        ValueError: an unknown type, or a default that the setting itself would refuse.
    """

    key: str
    type: type = str
    choices: Sequence[SettingValue] | None = None
    default: SettingValue = None
    required: bool = False
    label: str | None = None

    def __post_init__(self) -> None:
        if self.type not in _READERS:
            names = ", ".join(kind.__name__ for kind in _READERS)
            raise ValueError(f"Setting '{self.key}': type has to be one of {names}")
        if self.default is not None:
            self.read(self.default)

    def read(self, value: object) -> SettingValue:
        """Turn a received value into the setting's type.

        Raises:
            SettingInvalid: another type, or not one of the choices.
        """
        read, kind = _READERS[self.type]
        converted = read(value)
        if converted is None:
            raise SettingInvalid(self.key, f"has to be {kind}")
        if self.choices is not None and converted not in self.choices:
            raise SettingInvalid(self.key, f"has to be one of {', '.join(map(str, self.choices))}")
        return converted


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """The declared settings with their values, and the keys whose received value could not be used."""

    values: Mapping[str, SettingValue]
    ignored: tuple[str, ...] = ()


def resolve_settings(declared: Sequence[Setting], received: Mapping[str, Any]) -> ResolvedSettings:
    """Match received values with the declared settings; what nobody declared is left out.

    Raises:
        SettingInvalid: a required setting is missing or cannot be used.
    """
    fields = Fields(received)
    values: dict[str, SettingValue] = {}
    ignored: list[str] = []
    for setting in declared:
        value = received[fields.spelling(setting.key)] if setting.key in fields else None
        if value is None or value == "":
            if setting.required and setting.default is None:
                raise SettingInvalid(setting.key, "is required and missing")
            values[setting.key] = setting.default
            continue
        try:
            values[setting.key] = setting.read(value)
        except SettingInvalid:
            if setting.required:
                raise
            ignored.append(setting.key)
            values[setting.key] = setting.default
    return ResolvedSettings(values, tuple(ignored))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole_number(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else None


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _flag(value: object) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


def _list(value: object) -> list[Any] | None:
    return value if isinstance(value, list) else None


def _object(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


_READERS: dict[type, tuple[Callable[[object], SettingValue], str]] = {
    str: (_text, "text"),
    bool: (_flag, "true or false"),
    int: (_whole_number, "a whole number"),
    float: (_number, "a number"),
    list: (_list, "a list"),
    dict: (_object, "an object"),
}
