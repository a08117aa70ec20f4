"""Reading the callback's query, without any I/O."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.oauth_app.flow.callback_query import CodeReturned, ErrorReturned, Refused, read_callback
from enable_with_segment.oauth_app.flow.failures import FAILURES, FailureReason, reason_for_error

ISSUER = "https://id.segmentapis.com"


def test_a_code_with_its_state() -> None:
    assert read_callback([("code", "c"), ("scope", "destination/x"), ("state", "s")], issuer=ISSUER) == CodeReturned(
        "c", "s"
    )


def test_an_error_wins_over_a_code() -> None:
    returned = read_callback([("code", "c"), ("state", "s"), ("error", "access_denied")], issuer=ISSUER)
    assert returned == ErrorReturned("access_denied", None, None, "s")


def test_an_error_wins_over_a_code_however_long_it_is() -> None:
    returned = read_callback([("code", "c"), ("state", "s"), ("error", "e" * 5000)], issuer=ISSUER)
    assert isinstance(returned, ErrorReturned)
    assert len(returned.error) == 4096


def test_an_empty_state_is_no_state() -> None:
    returned = read_callback([("error", "invalid_scope"), ("state", "")], issuer=ISSUER)
    assert isinstance(returned, ErrorReturned)
    assert returned.state is None


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ([], FailureReason.NOTHING_RETURNED),
        ([("state", "s")], FailureReason.NOTHING_RETURNED),
        ([("code", ""), ("state", "s")], FailureReason.NOTHING_RETURNED),
        ([("code", "c")], FailureReason.STATE_MISSING),
        ([("code", "c"), ("state", "")], FailureReason.STATE_MISSING),
        ([("code", "c"), ("code", "d"), ("state", "s")], FailureReason.PARAMETER_REPEATED),
        ([("code", "c"), ("state", "s"), ("state", "s")], FailureReason.PARAMETER_REPEATED),
        ([("error", "a"), ("error", "a")], FailureReason.PARAMETER_REPEATED),
        ([("code", "c"), ("state", "s"), ("iss", "https://evil.example")], FailureReason.ISSUER_MISMATCH),
        ([("code", "c" * 5000), ("state", "s")], FailureReason.NOTHING_RETURNED),
        ([("code", "c"), ("state", "s" * 5000)], FailureReason.STATE_MISSING),
        ([("code", "c"), ("state", "s"), ("iss", ISSUER + "/" + "x" * 5000)], FailureReason.ISSUER_MISMATCH),
    ],
)
def test_what_is_refused(query: list[tuple[str, str]], reason: FailureReason) -> None:
    assert read_callback(query, issuer=ISSUER) == Refused(reason)


def test_our_issuer_and_unknown_parameters_are_fine() -> None:
    query = [("code", "c"), ("state", "s"), ("iss", ISSUER + "/"), ("utm_source", "a"), ("utm_source", "b")]
    assert isinstance(read_callback(query, issuer=ISSUER), CodeReturned)


_names = st.sampled_from(["code", "state", "error", "error_description", "error_hint", "iss", "scope", "other"])


@given(st.lists(st.tuples(_names, st.text(max_size=40)), max_size=8))
def test_every_query_gets_one_decision(query: list[tuple[str, str]]) -> None:
    returned = read_callback(query, issuer=ISSUER)
    names = [name for name, _ in query]
    if isinstance(returned, CodeReturned):
        assert names.count("code") == names.count("state") == 1
        assert "error" not in names
    if isinstance(returned, ErrorReturned):
        assert names.count("error") == 1


@given(st.text(max_size=40), st.text(max_size=80))
def test_every_error_has_a_page(error: str, description: str) -> None:
    assert reason_for_error(error, description, None) in FAILURES


def test_every_reason_has_a_page_with_a_next_step() -> None:
    assert set(FAILURES) == set(FailureReason)
    for failure in FAILURES.values():
        assert failure.title
        assert failure.text.endswith(".")
        assert 400 <= failure.status < 504


def test_a_refusal_that_speaks_of_owners_tells_the_customer_so() -> None:
    assert reason_for_error("access_denied", "User is not an owner of the workspace") is FailureReason.NOT_OWNER
    assert reason_for_error("something_new", None, "Only Workspace Owners may do this") is FailureReason.NOT_OWNER
    assert reason_for_error("invalid_scope", "the resource owner", None) is FailureReason.SCOPE_REFUSED
