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


def failure(status: int, body: object) -> errors.SegmentError | None:
    answer = Answer(status, body if isinstance(body, bytes) else json.dumps(body).encode())
    return config_api_failure(answer, json_object(answer))


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
        (500, {"error": "destination already exists or other internal error", "code": 13}, errors.AlreadyExists),
        (200, {"error": "destination already exists or other internal error", "code": 13}, errors.AlreadyExists),
        (503, {"error": "down", "code": 14}, errors.SegmentUnavailable),
        (501, {"error": "unimplemented", "code": 12}, errors.SegmentUnavailable),
        (503, b"upstream connect error or disconnect/reset before headers", errors.SegmentUnavailable),
        (401, b"", errors.Unauthenticated),
        (403, b"<html>", errors.InsufficientScope),
        (404, b"[]", errors.NotFound),
        (400, {"error": "malformed token", "code": 16}, errors.Unauthenticated),
        (302, b"", errors.InvalidAnswer),
        (429, b"", errors.RateLimited),
    ],
)
def test_case_057_every_documented_failure_has_its_type(
    status: int, body: object, kind: type[errors.SegmentError]
) -> None:
    assert type(failure(status, body)) is kind


def test_success_is_no_failure() -> None:
    assert failure(200, {"name": "x"}) is None
    assert failure(201, {"name": "x", "error": ""}) is None
    assert failure(204, b"") is None


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
