"""Tokens of the status page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.oauth_app.web.status_links import StatusLinks

NOW = datetime(2026, 1, 1, tzinfo=UTC)
INSTALL = "ins_" + "a" * 20
LINKS = StatusLinks(b"s" * 32)


def test_a_link_opens_until_it_expires() -> None:
    token = LINKS.make(INSTALL, now=NOW)
    assert LINKS.open(token, now=NOW) == INSTALL
    assert LINKS.open(token, now=NOW + timedelta(hours=23)) == INSTALL
    assert LINKS.open(token, now=NOW + timedelta(hours=25)) is None


def test_another_secret_opens_nothing() -> None:
    assert StatusLinks(b"t" * 32).open(LINKS.make(INSTALL, now=NOW), now=NOW) is None


@given(st.integers(min_value=0), st.characters(codec="ascii"))
def test_a_changed_character_opens_nothing(position: int, character: str) -> None:
    token = LINKS.make(INSTALL, now=NOW)
    position %= len(token)
    changed = token[:position] + character + token[position + 1 :]
    if changed != token:
        assert LINKS.open(changed, now=NOW) is None


@given(st.text(max_size=200))
def test_no_text_raises(text: str) -> None:
    assert LINKS.open(text, now=NOW) is None
