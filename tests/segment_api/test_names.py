"""Resource names: built, normalised, and unable to bend a URL (contract 3.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_api import names

SOURCE = "workspaces/northwind/sources/web-prod"


@pytest.mark.parametrize("text", ["northwind", "workspaces/northwind", "/workspaces/northwind"])
def test_case_060_a_workspace_has_one_name(text: str) -> None:
    assert names.workspace_name(text) == "workspaces/northwind"


def test_names_are_built_and_taken_apart() -> None:
    destination = names.destination_name(SOURCE, "acme-crm")
    assert destination == f"{SOURCE}/destinations/acme-crm"
    assert names.setting_name(destination, "apiKey") == f"{destination}/config/apiKey"
    assert names.setting_key(f"{destination}/config/apiKey") == "apiKey"
    assert names.setting_key("apiKey") == "apiKey"
    assert names.source_of(destination) == SOURCE
    assert names.workspace_of(SOURCE) == "workspaces/northwind"
    assert names.source_name("northwind/sources/web-prod") == SOURCE
    assert names.install_name("install/10") == names.install_name("installs/10") == "installs/10"


@pytest.mark.parametrize("bad", ["", "a/b", "..", ".", "a?b", "a#b", "a%2fb", "a b", "a\nb", "a\\b", "x" * 201])
def test_a_slug_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(names.NameInvalid):
        names.destination_name(SOURCE, bad)
    with pytest.raises(names.NameInvalid):
        names.workspace_name(f"workspaces/{bad}")


@given(st.text(max_size=30))
def test_a_name_that_is_accepted_stays_one_path_below_its_base(text: str) -> None:
    try:
        name = names.destination_name(SOURCE, text)
    except names.NameInvalid:
        return
    url = httpx.URL(f"https://platform.example/v1beta/{names.path_of(name)}")
    assert url.host == "platform.example"
    assert url.path == f"/v1beta/{name}"
    assert (url.query, url.fragment) == (b"", "")
