"""Reading JSON objects by any spelling of their keys."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment import Fields, Setting
from enable_with_segment.components.fields import as_text, normalise
from enable_with_segment.components.setting import SettingInvalid, resolve_settings

words = st.lists(st.text("abcdefghijk0123456789", min_size=1, max_size=6), min_size=1, max_size=4)


@given(words, st.sampled_from([" ", "_", "-", ".", ""]), st.sampled_from([str.upper, str.lower, str.title]))
def test_a_key_is_found_in_every_style(parts: list[str], separator: str, case: Any) -> None:
    camel = parts[0] + "".join(part.capitalize() for part in parts[1:])
    fields = Fields({case(separator.join(parts)): 7})
    assert fields[camel] == fields["_".join(parts)] == 7
    assert camel in fields


@given(st.dictionaries(st.text(), st.integers()))
def test_every_key_as_sent_finds_its_own_value(raw: dict[str, int]) -> None:
    fields = Fields(raw)
    assert {key: fields[key] for key in fields} == raw
    assert len(fields) == len(raw)
    for key in raw:
        assert fields.spelling(normalise(key)) in raw if normalise(key) else True


def test_objects_inside_are_fields_too_and_null_is_a_value() -> None:
    fields = Fields({"Company": {"Employee Count": 7, "tags": [{"Tag Name": "a"}, 1]}, "plan": None})
    assert fields["company"]["employeeCount"] == 7
    assert fields.fields("company")["tags"][0]["tagName"] == "a"
    assert "plan" in fields
    assert fields["plan"] is None
    assert "absent" not in fields
    assert fields.get("absent", 3) == 3
    assert repr(fields) == "Fields(Company, plan)"
    with pytest.raises(KeyError):
        fields[" - "]


@pytest.mark.parametrize("nothing", [None, [], "text", 7])
def test_what_is_no_object_is_empty(nothing: object) -> None:
    assert dict(Fields(nothing)) == {}
    assert dict(Fields({"context": nothing}).fields("context")) == {}


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("39.95", Decimal("39.95")),
        (" 7 ", Decimal(7)),
        (0.1, Decimal("0.1")),
        (12, Decimal(12)),
        ("a lot", None),
        ("NaN", None),
        ("sNaN", None),
        ("1e999999", None),
        (True, None),
        (None, None),
        ([], None),
    ],
)
def test_numbers_may_be_text(value: object, number: Decimal | None) -> None:
    assert Fields({"revenue": value}).decimal("revenue") == number


@pytest.mark.parametrize(("value", "text"), [("x", "x"), (" ", None), (5, "5"), (5.0, "5"), (True, None), ({}, None)])
def test_only_scalars_are_text(value: object, text: str | None) -> None:
    assert as_text(value) == text


def test_settings_are_typed_and_what_nobody_declared_is_left_out() -> None:
    declared = [
        Setting("region", choices=["us", "eu"], default="us"),
        Setting("sendAnonymous", type=bool, default=False),
        Setting("limit", type=int),
        Setting("ratio", type=float),
        Setting("events", type=list),
        Setting("mapping", type=dict),
    ]
    received = {
        "Region": "eu", "send_anonymous": "TRUE", "limit": "7", "ratio": 0.5, "events": [{"a": 1}],
        "mapping": {"b": []}, "endpoint": "https://elsewhere.example",
    }  # fmt: skip
    resolved = resolve_settings(declared, received)
    assert resolved.values == {
        "region": "eu", "sendAnonymous": True, "limit": 7, "ratio": 0.5, "events": [{"a": 1}], "mapping": {"b": []},
    }  # fmt: skip
    wrong = resolve_settings(
        declared, {"region": 5, "sendAnonymous": "maybe", "limit": 1.5, "ratio": True, "events": {}}
    )
    assert set(wrong.ignored) == {"region", "sendAnonymous", "limit", "ratio", "events"}
    assert wrong.values["region"] == "us"


def test_a_required_setting_may_have_a_default() -> None:
    assert resolve_settings([Setting("region", required=True, default="us")], {}).values == {"region": "us"}
    with pytest.raises(SettingInvalid, match="'region' is required and missing"):
        resolve_settings([Setting("region", required=True)], {"region": None})
    with pytest.raises(SettingInvalid, match="'limit' has to be a whole number"):
        resolve_settings([Setting("limit", type=int, required=True)], {"limit": "inf"})
