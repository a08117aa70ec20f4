"""The last net under the logs."""

from __future__ import annotations

import json
import logging
import sys
from typing import Literal

import pytest

from enable_with_segment.oauth_app.observability.logs import (
    JsonFormatter,
    RedactingFormatter,
    configure_logging,
    redact,
)


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ("Authorization: Basic cGtfb3JjaGlkXzUxZjA6", "cGtfb3JjaGlkXzUxZjA6"),
        ("authorization='Bearer 8PzGc2Nn1Xw0.rB1uC9pZ0dXe'", "8PzGc2Nn1Xw0"),
        ("key ews_abcdefghijklmnop is gone", "ews_abcdefghijklmnop"),
        ("POST /subscriptions/acme-crm/ewh_abcdefghijklmnop HTTP/1.1", "ewh_abcdefghijklmnop"),
        ("X-Signature: 4ad6918a833c2aafb72b2845d6386d40a8387ea9", "4ad6918a833c2aafb72b2845d6386d40a8387ea9"),
        ("{'x-segment-settings': 'eyJyZWdpb24iOiJldSJ9'}", "eyJyZWdpb24iOiJldSJ9"),
        ('{"writeKey": "wK9tQ2rVx7Ab"}', "wK9tQ2rVx7Ab"),
        ("secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("GET /auth/segment/callback?code=abc.def&scope=x&state=xyz123", "abc.def"),
        ("GET /auth/segment/callback?code=abc.def&scope=x&state=xyz123", "xyz123"),
        ("GET /connect/AbCdEfGhIjKlMnOpQrSt HTTP/1.1", "AbCdEfGhIjKlMnOpQrSt"),
        ("GET /status/ins_abc.123.AbCdEfGhIjKlMn HTTP/1.1", "AbCdEfGhIjKlMn"),
    ],
)
def test_case_121_logs_mask_every_credential(line: str, secret: str) -> None:
    assert secret not in redact(line)


def test_tracebacks_are_redacted_too() -> None:
    try:
        int("Basic cGtfb3JjaGlkXzUxZjA6")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", None, sys.exc_info())
    else:
        raise AssertionError("int() read it")
    told = RedactingFormatter().format(record)
    assert "Traceback" in told
    assert "cGtfb3JjaGlk" not in told


def test_json_lines_hold_the_message_what_was_passed_along_and_no_credential() -> None:
    try:
        int("Basic cGtfb3JjaGlkXzUxZjA6")
    except ValueError:
        failed = sys.exc_info()
    else:
        raise AssertionError("int() read it")
    record = logging.getLogger("x").makeRecord(
        "x", logging.WARNING, "f", 1, "key %s\nis gone", ("ews_abcdefghijklmnop",), failed
    )
    record.install = "ins_1"
    record.attempt = 3
    record.header = "Bearer 8PzGc2Nn1Xw0.rB1uC9pZ0dXe"
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "key ews_•••\nis gone"
    assert (line["level"], line["logger"], line["install"], line["attempt"]) == ("WARNING", "x", "ins_1", 3)
    assert line["time"].endswith("+00:00")
    assert "Traceback" in line["exception"]
    assert "cGtfb3JjaGlk" not in text
    assert "8PzGc2Nn1Xw0" not in text
    assert set(line) == {"time", "level", "logger", "message", "install", "attempt", "header", "exception"}


@pytest.mark.parametrize("form", ["text", "json"])
def test_both_forms_go_to_standard_error(form: Literal["text", "json"], capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging("INFO", form)
        logging.getLogger("here").info("it is %s", "noon")
    finally:
        root.handlers, root.level = handlers, level
    out, err = capsys.readouterr()
    assert out == ""
    assert "it is noon" in (json.loads(err)["message"] if form == "json" else err)
