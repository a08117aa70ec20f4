"""What a partner chooses for one customer: values for custom settings, checked before a connect link carries them.

Segment's catalog would silently drop a name it does not know, so a slip of the keyboard would show itself much later
as a customer in the wrong region.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from enable_with_segment.components.fields import normalise
from enable_with_segment.components.setting import Setting, SettingInvalid, SettingValue

_LONGEST_NAME_TOLD = 60


class ChosenSettingRefused(ValueError):
    """A chosen setting is not one that the component declares, or its value cannot be used.

    The text names the setting and the declared ones; it never repeats the value.
    """


def check_chosen_settings(
    declared: Sequence[Setting] | None, chosen: Mapping[str, Any], *, component: str
) -> dict[str, SettingValue]:
    """Return the chosen values in the types of their settings, by the names that the component declares.

    Args:
        declared: the component's settings; ``None`` where its code is not at hand, so that nothing can be checked.
        chosen: by any spelling of the settings' names.
        component: its name, for messages.

    Raises:
        ChosenSettingRefused: an unknown name, a setting given twice, or a value that does not fit.
    """
    checked: dict[str, SettingValue] = {}
    for name, value in chosen.items():
        setting = _find(declared, name, component=component)
        if setting.key in checked:
            raise ChosenSettingRefused(f"the setting '{setting.key}' is given twice")
        try:
            checked[setting.key] = setting.read(value)
        except SettingInvalid as problem:
            raise ChosenSettingRefused(_in_a_sentence(problem)) from None
        if setting.required and checked[setting.key] == "":
            raise ChosenSettingRefused(f"the setting '{setting.key}' is required, so it cannot be empty")
    return checked


def read_chosen_settings(
    declared: Sequence[Setting] | None, pairs: Iterable[tuple[str, str]], *, component: str
) -> dict[str, SettingValue]:
    """Return settings that were given as text, checked; a list or an object is written as JSON.

    Raises:
        ChosenSettingRefused: as :func:`check_chosen_settings`, or a list or an object that is not JSON.
    """
    chosen: dict[str, Any] = {}
    for name, text in pairs:
        setting = _find(declared, name, component=component)
        if setting.key in chosen:
            raise ChosenSettingRefused(f"the setting '{setting.key}' is given twice")
        chosen[setting.key] = _from_json(setting, text) if setting.type in {list, dict} else text
    return check_chosen_settings(declared, chosen, component=component)


def _find(declared: Sequence[Setting] | None, name: str, *, component: str) -> Setting:
    if declared is None:
        raise ChosenSettingRefused(
            f"the settings of '{component}' are not known here: set HANDLERS to the Subscription that declares them"
        )
    for setting in declared:
        if setting.key == name:
            return setting
    for setting in declared:
        if normalise(setting.key) == normalise(name):
            return setting
    told = name if len(name) <= _LONGEST_NAME_TOLD else f"{name[:_LONGEST_NAME_TOLD]}..."
    known = ", ".join(setting.key for setting in declared)
    raise ChosenSettingRefused(
        f"'{component}' has no setting {told!r}; " + (f"it declares: {known}" if known else "it declares none")
    )


def _from_json(setting: Setting, text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        shape = "a list" if setting.type is list else "an object"
        raise ChosenSettingRefused(f"the setting '{setting.key}' has to be {shape}, written as JSON") from None


def _in_a_sentence(problem: SettingInvalid) -> str:
    text = str(problem).removesuffix(".")
    return text[0].lower() + text[1:]
