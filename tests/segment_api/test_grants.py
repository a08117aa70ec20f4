"""Reading token answers: whatever comes, either a complete grant or a typed error (contract 2.5, 2.7)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.segment_api.answers import Answer
from enable_with_segment.segment_api.errors import InvalidAnswer, SegmentError
from enable_with_segment.segment_api.grants import InstallGrant, read_install_grant, read_refreshed_token

SOURCE = "workspaces/northwind/sources/web-prod"
GRANT: dict[str, object] = {
    "access_token": "a.b",
    "token_type": "bearer",
    "expires_in": 3599,
    "scope": "destination/acme-crm",
    "app_name": "apps/412",
    "install_name": "installs/9077",
    "workspace_names": ["workspaces/northwind"],
    "source_names": [SOURCE],
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def read(answer: dict[str, object], status: int = 200) -> InstallGrant:
    body = json.dumps(answer).encode()
    return read_install_grant(Answer(status, body), requested_scope="destination/acme-crm")


@given(st.sampled_from(sorted(GRANT)), json_values)
def test_one_odd_field_gives_a_whole_grant_or_a_typed_error(field: str, value: object) -> None:
    try:
        grant = read(GRANT | {field: value})
    except SegmentError:
        return
    assert grant.access_token
    assert grant.access_token.isascii()
    assert 1 <= grant.expires_in <= 24 * 3600
    assert grant.install_name.startswith("installs/")
    assert grant.workspace_name.startswith("workspaces/")
    assert all(source.startswith("workspaces/") for source in grant.source_names)


@given(st.binary(max_size=200), st.integers(100, 599))
def test_any_bytes_with_any_status_are_a_typed_error(body: bytes, status: int) -> None:
    with pytest.raises(SegmentError):
        read_install_grant(Answer(status, body), requested_scope="s")


@pytest.mark.parametrize(
    ("given_life", "read_life"),
    [(3599, 3599), ("3599", 3599), (0, 3600), (-5, 3600), (10**12, 3600), (1.5, 3600), ("soon", 3600), (True, 3600)],
)
def test_a_life_that_makes_no_sense_counts_as_not_given(given_life: object, read_life: int) -> None:
    assert read(GRANT | {"expires_in": given_life}).expires_in == read_life
    assert read_refreshed_token({"access_token": "a", "expires_in": given_life}).expires_in == read_life


@pytest.mark.parametrize("token", [None, "", 7, ["a"], "two words", "line\nbreak", "nul\0", "é", "x" * 20_000])
def test_a_token_that_no_header_can_carry_is_refused(token: object) -> None:
    with pytest.raises(InvalidAnswer, match="access_token"):
        read(GRANT | {"access_token": token})
    with pytest.raises(InvalidAnswer, match="access_token"):
        read_refreshed_token({"access_token": token})


@pytest.mark.parametrize("kind", ["mac", "", None, 7])
def test_a_token_that_is_no_bearer_token_is_refused(kind: object) -> None:
    with pytest.raises(InvalidAnswer, match="bearer"):
        read(GRANT | {"token_type": kind})


@pytest.mark.parametrize("field", ["install_name", "workspace_names", "source_names"])
@pytest.mark.parametrize("value", ["installs/../x", "a b", "x/y/z/w", "https://evil.example/"])
def test_names_that_could_bend_a_url_are_refused(field: str, value: str) -> None:
    with pytest.raises(InvalidAnswer):
        read(GRANT | {field: [value] if field.endswith("s") else value})


def test_names_are_normalised() -> None:
    grant = read(
        GRANT
        | {
            "install_name": "install/9077",
            "workspace_names": ["northwind"],
            "source_names": ["northwind/sources/web-prod"],
        }
    )
    assert (grant.install_name, grant.workspace_name) == ("installs/9077", "workspaces/northwind")
    assert grant.source_names == (SOURCE,)


def test_singular_fields_are_read_when_there_is_no_plural() -> None:
    answer = {k: v for k, v in GRANT.items() if k not in {"workspace_names", "source_names"}}
    assert read(answer | {"source_name": SOURCE}).source_names == (SOURCE,)
    assert read(answer | {"source_name": SOURCE}).workspace_name == "workspaces/northwind"


def test_a_scope_that_is_not_said_is_the_one_asked_for() -> None:
    assert read({k: v for k, v in GRANT.items() if k != "scope"}).scope == "destination/acme-crm"
    assert read(GRANT | {"scope": "workspace:read"}).scope == "workspace:read"
