"""Custom settings of a destination: what the partner declares, and what a delivery's header makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from subscriptions.fields import Fields

SettingValue: TypeAlias = str | bool | int | float | list[Any] | dict[str, Any] | None

_TYPES: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


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
        if self.type not in _TYPES:
            names = ", ".join(kind.__name__ for kind in _TYPES)
            raise ValueError(f"Setting '{self.key}': type has to be one of {names}")
        if self.default is not None:
            self.read(self.default)

    def read(self, value: object) -> SettingValue:
        """Turn a received value into the setting's type.

        Raises:
            SettingInvalid: another type, or not one of the choices.
        """
        converted = _convert(value, self.type)
        if converted is None:
            raise SettingInvalid(self.key, f"has to be {_TYPES[self.type]}")
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
        value = fields.get(setting.key)
        value = _plain(value)
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


def _plain(value: object) -> object:
    return dict(value.raw) if isinstance(value, Fields) else value


def _convert(value: object, wanted: type) -> SettingValue:
    if wanted is bool:
        if isinstance(value, str):
            return {"true": True, "false": False}.get(value.strip().lower())
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if wanted is str:
        return str(value) if isinstance(value, str | int | float) else None
    if wanted in (int, float):
        try:
            number = float(value) if isinstance(value, str | int | float) else None
        except (ValueError, OverflowError):
            return None
        if number is None or not math.isfinite(number):
            return None
        return (int(number) if number.is_integer() else None) if wanted is int else number
    if wanted is list and isinstance(value, list):
        return value
    return value if wanted is dict and isinstance(value, dict) else None
