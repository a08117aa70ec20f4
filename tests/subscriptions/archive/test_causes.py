"""What is left of an error text as the cause of a dead letter."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment import Event
from enable_with_segment.components.errors import DeliveryRefused
from enable_with_segment.components.event_reader import check_event, parse_event
from enable_with_segment.subscriptions.archive.causes import cause_of

MASKED_BEFORE = re.compile(r"""'[^']*'|"[^"]*"|\b[0-9a-fA-F]{8}[0-9a-fA-F-]{8,}\b|\d+""")
"""What no cause may show, whatever a handler says."""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (None, "no reason was given"),
        ("store (track): no price for 'sku-1'", "store (track): no price for …"),
        ("wrong2 (track Wrong2): ValueError: row 17", "wrong2 (track Wrong2): ValueError: row …"),
        ("wrong2 (track It's 'it'): don't", "wrong2 (track It's 'it'): don't"),
        ("acme 2 (identify): no", "acme 2 (identify): no"),
        ("a (track): order 7; wrong2 (track): order 8", "a (track): order …; wrong2 (track): order …"),
        ("a (track): can't; wrong2 (track Step 1): don't", "a (track): can…; wrong2 (track Step 1): don't"),
        ("a (track): 7; b2 (track Step 2): 8", "a (track): …; b… (track Step …): …"),  # it does not take this event
        ("a (track): x; u4711 (track): y", "a (track): x; u… (track): y"),  # nobody's name
        ("a (identify): no karin@mail.example", "a (identify): no …"),
        ("a (identify): <mailto:Karin.Huber+7@xn--mail.example>", "a (identify): <mailto:…>"),
        ("a (identify): GET /people/karin%40mail.example/1", "a (identify): GET /people/…/…"),
        ("a (identify): one+two@mail.example+three@mail.example too", "a (identify): … too"),
        ("a (track): no cus_NffrFeUfNV2Hib", "a (track): no cus_…"),
        ("a (track): no 01ARZ3NDEKTSV4RRFFQ69G5FAV", "a (track): no …"),
        ("a (track): no 0b1c2d3e-77aa-4bcd-9e10-000000000001", "a (track): no …"),
        ("http (track): the endpoint answered 404", "http (track): the endpoint answered 404"),
        ("a (track): x (given up after 1 attempt)", "a (track): x (given up after … attempts)"),
        ("a (track): x (given up after 20 attempts)", "a (track): x (given up after … attempts)"),
    ],
)
def test_a_cause_keeps_names_and_words_and_drops_what_differs(error: str | None, cause: str) -> None:
    assert cause_of(error, event="step 1 ") == cause


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"type": "track", "userId": "u"},
        {"type": "delete", "anonymousId": "a"},
        {"type": "identify"},
    ],
)
def test_what_the_service_says_of_an_event_stays_whole(payload: dict[str, str]) -> None:
    with pytest.raises(DeliveryRefused) as refused:
        check_event(Event(payload, received_at=datetime.now(UTC)))
    assert "'" in refused.value.message
    assert cause_of(refused.value.message) == refused.value.message


def test_a_body_that_cannot_be_read_is_one_cause_wherever_it_breaks_off() -> None:
    causes = set()
    for body in (b"no JSON", b'{"type":"track",\n "a":}'):
        with pytest.raises(DeliveryRefused) as refused:
            parse_event(body, received_at=datetime.now(UTC))
        causes.add(cause_of(refused.value.message))
    assert causes == {"The body cannot be read: it is not JSON (line …, column …)."}


_PEOPLE = st.from_regex(r"[a-z0-9_.+-]{1,12}(@|%40)[a-z0-9.-]{1,12}", fullmatch=True)
_WORDS = st.lists(st.sampled_from([*"'\"; :()/=<>,", " (track): ", "; b", "u7", "4711", "no", "ä", "\n"]) | st.text())


@given(_WORDS, _PEOPLE, _WORDS)
def test_no_cause_shows_an_address_or_a_number(before: list[str], person: str, after: list[str]) -> None:
    said = f"{''.join(before)} {person} {''.join(after)}"
    cause = cause_of(f"store2 (track Step 1): {said}", event="Step 1").removeprefix("store2 (track Step 1): ")
    assert person not in cause
    assert not re.search(r"\d{4}", cause)


@given(st.text(st.sampled_from("ab1@%40.-_'\" :/") | st.characters()))
def test_a_cause_shows_nothing_that_stood_in_quotes_or_was_a_number(said: str) -> None:
    """Each run that is left is part of one that was left before there was anything to know of addresses and names."""
    cause = cause_of(f"store (track): {said}").removeprefix("store (track): ")
    left = iter(MASKED_BEFORE.sub("…", said))
    assert all(character in left for character in cause.replace("…", ""))


@given(_PEOPLE, _PEOPLE)
def test_one_cause_is_one_group_whoever_it_is_about(one: str, other: str) -> None:
    assert cause_of(f"a (identify): no {one} here") == cause_of(f"a (identify): no {other} here")
