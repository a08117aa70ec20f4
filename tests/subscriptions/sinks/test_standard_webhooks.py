"""Signatures of Standard Webhooks."""

from __future__ import annotations

import pytest

from enable_with_segment.subscriptions.sinks.standard_webhooks import (
    SignatureInvalid,
    key_of,
    new_secret,
    signed_headers,
    verify,
)

# The published example of the specification's reference libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EXAMPLE = {"message_id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "timestamp": 1614265330, "body": b'{"test": 2432232314}'}


def test_the_published_example() -> None:
    headers = signed_headers(SECRET, **EXAMPLE)  # type: ignore[arg-type]
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    verify(SECRET, headers, b'{"test": 2432232314}', now=1614265330 + 200)
    several = {**headers, "webhook-signature": f"v1,AAAA {headers['webhook-signature']} v2,x"}
    verify(SECRET, several, b'{"test": 2432232314}', now=1614265330 - 200)


@pytest.mark.parametrize(
    ("changes", "body", "seconds_later"),
    [
        ({}, b"{}", 0),
        ({}, b'{"test": 2432232314}', 301),
        ({}, b'{"test": 2432232314}', -301),
        ({"webhook-id": "msg_other"}, b'{"test": 2432232314}', 0),
        ({"webhook-id": ""}, b'{"test": 2432232314}', 0),
        ({"webhook-timestamp": "1614265331"}, b'{"test": 2432232314}', 0),
        ({"webhook-timestamp": "soon"}, b'{"test": 2432232314}', 0),
        ({"webhook-signature": ""}, b'{"test": 2432232314}', 0),
    ],
)
def test_anything_changed_or_old_is_refused(changes: dict[str, str], body: bytes, seconds_later: int) -> None:
    headers = {**signed_headers(SECRET, **EXAMPLE), **changes}  # type: ignore[arg-type]
    with pytest.raises(SignatureInvalid):
        verify(SECRET, headers, body, now=1614265330 + seconds_later)


def test_secrets() -> None:
    assert len(key_of(new_secret())) == 32
    assert new_secret() != new_secret()
    for bad in ("", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_%%%", "whsec_" + "A" * 200):
        with pytest.raises(ValueError, match="whsec_"):
            key_of(bad)
