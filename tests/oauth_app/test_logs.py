"""The last net under the logs."""

from __future__ import annotations

import logging
import sys

import pytest

from oauth_app.logs import RedactingFormatter, redact


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ("Authorization: Basic cGtfb3JjaGlkXzUxZjA6", "cGtfb3JjaGlkXzUxZjA6"),
        ("authorization='Bearer 8PzGc2Nn1Xw0.rB1uC9pZ0dXe'", "8PzGc2Nn1Xw0"),
        ("key ews_abcdefghijklmnop is gone", "ews_abcdefghijklmnop"),
        ("POST /subscriptions/acme-crm/ewh_abcdefghijklmnop HTTP/1.1", "ewh_abcdefghijklmnop"),
        ("X-Signature: 4ad6918a833c2aafb72b2845d6386d40a8387ea9", "4ad6918a833c2aafb72b2845d6386d40a8387ea9"),
        ("{'x-segment-settings': 'eyJyZWdpb24iOiJldSJ9'}", "eyJyZWdpb24iOiJldSJ9"),
        ("secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("GET /auth/segment/callback?code=abc.def&scope=x&state=xyz123", "abc.def"),
        ("GET /auth/segment/callback?code=abc.def&scope=x&state=xyz123", "xyz123"),
        ("GET /connect/AbCdEfGhIjKlMnOpQrSt HTTP/1.1", "AbCdEfGhIjKlMnOpQrSt"),
        ("GET /status/ins_abc.123.AbCdEfGhIjKlMn HTTP/1.1", "AbCdEfGhIjKlMn"),
    ],
)
def test_redact(line: str, secret: str) -> None:
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
