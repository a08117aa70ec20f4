"""Which failure an answer of the Config API stands for (contract 3.7)."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.segment_api import errors
from enable_with_segment.segment_api.answers import (
    Answer,
    config_api_failure,
    config_api_object,
    json_object,
    retry_after_seconds,
)

HTML = b"<html><body>We are doing maintenance.</body></html>"
EXISTS = {"error": "destination already exists or other internal error", "code": 13}


def failure(status: int, body: object, *, creating: bool = False) -> errors.SegmentError | None:
    answer = Answer(status, body if isinstance(body, bytes) else json.dumps(body).encode())
    return config_api_failure(answer, json_object(answer), creating=creating)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": "bad", "code": 3}, errors.ConfigApiError),
        (401, {"error": "malformed token", "code": 16}, errors.Unauthenticated),
        (403, {"error": "insufficient scope", "code": 7}, errors.InsufficientScope),
        (404, {"error": "not found", "code": 5}, errors.NotFound),
        (409, {"error": "taken", "code": 6}, errors.AlreadyExists),
        (429, {"error": "slow down", "code": 8}, errors.RateLimited),
        (500, {"error": "a Go nil pointer", "code": 13}, errors.InternalFailure),
        (503, {"error": "down", "code": 14}, errors.SegmentUnavailable),
        (501, {"error": "unimplemented", "code": 12}, errors.SegmentUnavailable),
        (503, b"upstream connect error or disconnect/reset before headers", errors.SegmentUnavailable),
        (400, {"error": "malformed token", "code": 16}, errors.Unauthenticated),
        (429, b"", errors.RateLimited),
    ],
)
def test_case_057_every_documented_failure_has_its_type(
    status: int, body: object, kind: type[errors.SegmentError]
) -> None:
    assert type(failure(status, body)) is kind


@pytest.mark.parametrize(
    "body", [b"", HTML, b"[]", b'{"error": "gone', b"Not found", {"message": "Forbidden"}, {"error": "x"}]
)
@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 405, 408, 409, 410, 418, 425])
def test_what_is_not_in_segments_form_is_an_outage_whatever_its_status(status: int, body: object) -> None:
    found = failure(status, body)
    assert type(found) is errors.InvalidAnswer
    assert isinstance(found, errors.SegmentUnavailable)
    assert found.status == status


@pytest.mark.parametrize("body", [HTML, b"[]", b'{"name": "cut', b"ok", b""])
@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_success_that_is_no_object_is_an_outage(status: int, body: bytes) -> None:
    assert type(failure(status, body)) is errors.InvalidAnswer


@pytest.mark.parametrize("code", [0, 17, 404, -5, "5", 5.0, True, None])
def test_a_code_that_grpc_does_not_have_is_not_segments(code: object) -> None:
    assert type(failure(404, {"error": "not found", "code": code})) is errors.InvalidAnswer


@pytest.mark.parametrize("status", [200, 302, 408, 425, 500, 503])
@pytest.mark.parametrize("code", [3, 5, 7, 16])
def test_a_code_that_its_status_contradicts_is_an_outage(status: int, code: int) -> None:
    assert isinstance(failure(status, {"error": "no", "code": code}), errors.SegmentUnavailable)


@pytest.mark.parametrize("status", [200, 409, 500])
def test_case_045_already_exists_is_believed_in_answer_to_a_create_only(status: int) -> None:
    assert type(failure(status, EXISTS, creating=True)) is errors.AlreadyExists
    assert type(failure(status, EXISTS)) is errors.InternalFailure


def test_an_outage_says_what_answered() -> None:
    assert "404 with HTML, not in Segment's form" in str(failure(404, HTML))
    assert "wrong SEGMENT_CONFIG_API_URL" in str(failure(404, b""))


def test_success_is_no_failure() -> None:
    assert failure(200, {"name": "x"}) is None
    assert failure(201, {"name": "x", "error": ""}) is None
    assert config_api_failure(Answer(204, b""), None, any_body=True) is None


@given(st.integers(100, 599), st.binary(max_size=100))
def test_any_answer_is_an_object_or_a_typed_failure(status: int, body: bytes) -> None:
    with suppress(errors.SegmentError):
        assert isinstance(config_api_object(Answer(status, body)), dict)


@given(st.integers(100, 599), st.dictionaries(st.sampled_from(["error", "code"]), st.text() | st.integers()))
def test_any_error_body_is_typed(status: int, body: dict[str, object]) -> None:
    found = failure(status, body)
    if status >= 300:
        assert isinstance(found, errors.SegmentError)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("7", 7), (" 7 ", 7), ("0", 0), ("99999999", 3600), ("-1", None), ("soon", None), ("٣", None)],
)
def test_retry_after_is_read_in_seconds(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header) == seconds


@pytest.mark.parametrize(
    "text",
    ["install already exists", "Install Already Exists", "install_already_exists", "x: INSTALL-ALREADY-EXISTS (6)"],
)
def test_install_already_exists_is_found_in_any_dress(text: str) -> None:
    assert errors.means_install_already_exists(None, "", text)
    assert not errors.means_install_already_exists(None, "", "destination already exists")


def test_foreign_text_is_short_and_printable() -> None:
    assert errors.foreign_text("a\r\nSet-Cookie: x\x1b[31m") == "a  Set-Cookie: x [31m"
    assert len(errors.foreign_text("x" * 1000)) == 300
    assert errors.foreign_text({"not": "text"}) == ""
