"""Settings chosen for one customer: checked against what the component declares."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment import Setting
from enable_with_segment.installs.chosen_settings import (
    ChosenSettingRefused,
    check_chosen_settings,
    read_chosen_settings,
)

DECLARED = (
    Setting("region", choices=["us", "eu"]),
    Setting("zip", required=True),
    Setting("batchSize", type=int),
    Setting("fast", type=bool),
    Setting("share", type=float),
    Setting("lists", type=list),
    Setting("mapping", type=dict),
)


def check(**chosen: Any) -> dict[str, Any]:
    return check_chosen_settings(DECLARED, chosen, component="acme-crm")


def read(*pairs: tuple[str, str]) -> dict[str, Any]:
    return read_chosen_settings(DECLARED, pairs, component="acme-crm")


def test_values_come_out_in_their_types_and_by_their_declared_names() -> None:
    chosen = check(Region="eu", batch_size="7", FAST="true", share=1, lists=[1], mapping={"a": 1})
    assert chosen == {"region": "eu", "batchSize": 7, "fast": True, "share": 1.0, "lists": [1], "mapping": {"a": 1}}


def test_text_is_read_by_the_type_of_its_setting() -> None:
    chosen = read(("zip", "00123"), ("batchSize", "7"), ("fast", "true"), ("lists", "[1]"), ("mapping", '{"a": 1}'))
    assert chosen == {"zip": "00123", "batchSize": 7, "fast": True, "lists": [1], "mapping": {"a": 1}}
    assert read(("zip", "1e5")) == {"zip": "1e5"}, "text that looks like a number stays as it is"


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"regoin": "eu"}, "'acme-crm' has no setting 'regoin'; it declares: region, zip, batchSize, fast, share"),
        ({"": "eu"}, "has no setting ''"),
        ({"x" * 500: 1}, "has no setting 'xxxx"),
        ({"region": "mars"}, "the setting 'region' has to be one of us, eu"),
        ({"region": None}, "the setting 'region' has to be text"),
        ({"batchSize": 1.5}, "the setting 'batchSize' has to be a whole number"),
        ({"lists": "a,b"}, "the setting 'lists' has to be a list"),
        ({"region": "eu", "Region": "us"}, "the setting 'region' is given twice"),
        ({"zip": ""}, "the setting 'zip' is required, so it cannot be empty"),
    ],
    ids=["unknown", "nameless", "long", "no choice", "null", "fraction", "no list", "twice", "empty"],
)
def test_what_would_come_to_nothing_is_refused(chosen: dict[str, Any], told: str) -> None:
    with pytest.raises(ChosenSettingRefused) as refused:
        check(**chosen)
    assert told in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([("lists", "a,b")], "the setting 'lists' has to be a list, written as JSON"),
        ([("mapping", "{")], "the setting 'mapping' has to be an object, written as JSON"),
        ([("lists", "{}")], "the setting 'lists' has to be a list"),
        ([("region", "us"), ("region", "eu")], "the setting 'region' is given twice"),
    ],
    ids=["no JSON", "half JSON", "another shape", "twice"],
)
def test_text_that_cannot_be_read_is_refused(pairs: list[tuple[str, str]], told: str) -> None:
    with pytest.raises(ChosenSettingRefused, match=told):
        read(*pairs)


def test_a_component_without_settings_says_so() -> None:
    with pytest.raises(ChosenSettingRefused, match="'acme-crm' has no setting 'region'; it declares none"):
        check_chosen_settings((), {"region": "eu"}, component="acme-crm")


def test_nothing_chosen_needs_no_declaration() -> None:
    assert check_chosen_settings(None, {}, component="acme-crm") == {}
    with pytest.raises(ChosenSettingRefused, match="set HANDLERS"):
        check_chosen_settings(None, {"region": "eu"}, component="acme-crm")


@given(
    st.dictionaries(st.text(max_size=12), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.none()))
)
def test_whatever_is_chosen_is_taken_whole_or_refused(chosen: dict[str, Any]) -> None:
    try:
        checked = check_chosen_settings(DECLARED, chosen, component="acme-crm")
    except ChosenSettingRefused:
        return
    assert len(checked) == len(chosen)
    assert check_chosen_settings(DECLARED, checked, component="acme-crm") == checked
