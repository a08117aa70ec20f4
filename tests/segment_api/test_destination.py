"""Destination bodies built and read (contract 3.3)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.segment_api.catalog import read_catalog_destination
from enable_with_segment.segment_api.destination import (
    DestinationRequest,
    create_body,
    is_masked,
    read_destination,
    update_body,
)
from enable_with_segment.segment_api.errors import InvalidAnswer

NAME = "workspaces/northwind/sources/web-prod/destinations/acme-crm"
requests = st.builds(
    DestinationRequest,
    st.just(NAME),
    enabled=st.none() | st.booleans(),
    api_key=st.none() | st.text(min_size=1),
    settings=st.dictionaries(st.sampled_from(["region", "sendAnonymous", "apiKey"]), st.text() | st.booleans()),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "value"]), inner),
    max_leaves=8,
)


@given(requests)
def test_case_049_the_mask_names_exactly_what_the_body_changes(request: DestinationRequest) -> None:
    body = update_body(request)
    assert body.keys() == {"destination", "update_mask"}
    changed = {f"destination.{field}" for field in body["destination"] if field != "name"}
    assert set(body["update_mask"]["paths"]) == changed
    assert None not in body["destination"].values()
    assert body["destination"].get("config") != []


@given(requests)
def test_case_043_settings_are_named_in_full_and_the_key_is_ours(request: DestinationRequest) -> None:
    destination = create_body(request)["destination"]
    values = {entry["name"]: entry["value"] for entry in destination["config"]}
    assert all(name.startswith(f"{NAME}/config/") for name in values)
    assert len(values) == len(destination["config"])
    if request.api_key is not None:
        assert values[f"{NAME}/config/apiKey"] == request.api_key
    assert destination["enabled"] is bool(request.enabled)


def test_case_053_what_is_not_known_is_ignored() -> None:
    config = [{"name": f"{NAME}/config/apiKey", "value": "k", "odd": 1}, {"name": f"{NAME}/config/endpoint"}, None, 7]
    read = read_destination({"name": NAME, "enabled": True, "config": config, "slug": "x", "quota": {}})
    assert (read.enabled, read.api_key) == (True, "k")


@pytest.mark.parametrize("value", ["••••", "••••••••••51f0", "****************", "", None, 5])
def test_case_062_a_key_that_cannot_be_read_is_unknown(value: object) -> None:
    read = read_destination({"name": NAME, "config": [{"name": f"{NAME}/config/apiKey", "value": value}]})
    assert read.api_key is None
    assert not read.enabled


def test_the_visible_end_of_a_mask_is_read() -> None:
    read = read_destination({"name": NAME, "config": [{"name": f"{NAME}/config/apiKey", "value": "••••51f0"}]})
    assert read.api_key_tail == "51f0"
    assert is_masked("••••51f0")
    assert not is_masked("pk_orchid_51f0")


@pytest.mark.parametrize(("given_value", "enabled"), [("true", True), ("false", False), (True, True)])
def test_booleans_in_text_are_read(given_value: object, enabled: bool) -> None:
    assert read_destination({"name": NAME, "enabled": given_value}).enabled is enabled


@given(st.dictionaries(st.sampled_from(["name", "enabled", "config", "display_name"]), json_values))
def test_any_object_is_a_destination_or_a_typed_error(body: dict[str, object]) -> None:
    with suppress(InvalidAnswer):
        assert "/destinations/" in read_destination(body).name


@given(st.dictionaries(st.sampled_from(["name", "settings", "display_name"]), json_values))
def test_any_object_is_a_catalog_entry_or_a_typed_error(body: dict[str, object]) -> None:
    with suppress(InvalidAnswer):
        assert isinstance(read_catalog_destination(body).setting_keys, frozenset)


def test_a_key_shows_in_no_repr() -> None:
    request = DestinationRequest(NAME, api_key="pk_orchid_51f0", settings={"token": "pk_orchid_51f0"})
    config = [{"name": f"{NAME}/config/apiKey", "value": "pk_orchid_51f0"}]
    assert "orchid" not in repr(request) + repr(read_destination({"name": NAME, "config": config}))
