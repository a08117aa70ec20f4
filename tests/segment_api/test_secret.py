"""A secret is not printed by accident."""

from __future__ import annotations

from enable_with_segment.segment_api.secret import Secret


def test_a_secret_shows_only_when_revealed() -> None:
    secret = Secret("q7VtR2mZk9Lp")
    assert "q7V" not in f"{secret} {secret!r} {secret!s} {[secret]}"
    assert secret.reveal() == "q7VtR2mZk9Lp"
    assert (bool(secret), bool(Secret(""))) == (True, False)


def test_secrets_are_compared_by_value() -> None:
    assert Secret("é") == Secret("é") != Secret("e")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
