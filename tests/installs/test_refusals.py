"""What one refusal proves, what a second one proves, and what many at once prove."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.db.control.install_tokens import Refusal
from enable_with_segment.installs.reasons import Reason
from enable_with_segment.installs.refusals import (
    CONFIRM_AFTER,
    TOGETHER_WITHIN,
    Verdict,
    largest_together,
    verdict,
)

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
REASONS = (Reason.REMOVAL_REPORTED, Reason.REFRESH_REFUSED, Reason.TOKEN_REJECTED)


def refusal(ago: timedelta = timedelta(0), reason: Reason = Reason.REMOVAL_REPORTED) -> Refusal:
    return Refusal(reason.value, NOW - ago, "404 (code 5): install not found")


refusals = st.lists(
    st.builds(refusal, st.integers(0, 30 * 24).map(lambda hours: timedelta(hours=hours)), st.sampled_from(REASONS)),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize(
    ("ago", "found"),
    [
        (timedelta(0), Verdict.UNCONFIRMED),
        (CONFIRM_AFTER - timedelta(seconds=1), Verdict.UNCONFIRMED),
        (CONFIRM_AFTER, Verdict.CONFIRMED),
        (timedelta(days=400), Verdict.CONFIRMED),
    ],
)
def test_a_refusal_counts_when_it_is_repeated_some_minutes_later(ago: timedelta, found: Verdict) -> None:
    assert verdict(refusal(ago), [refusal(ago)], 1, now=NOW) is found


@pytest.mark.parametrize(
    ("refused", "live", "found"),
    [
        (1, 1, Verdict.CONFIRMED),
        (2, 2, Verdict.CONFIRMED),
        (3, 3, Verdict.TOGETHER),
        (5, 5, Verdict.TOGETHER),
        (3, 15, Verdict.TOGETHER),
        (3, 16, Verdict.CONFIRMED),
        (19, 100, Verdict.CONFIRMED),
        (20, 100, Verdict.TOGETHER),
    ],
)
def test_a_share_of_installs_that_turn_bad_together_is_nobodys_removal(refused: int, live: int, found: Verdict) -> None:
    own = refusal(timedelta(hours=1))
    assert verdict(own, [own] * refused, live, now=NOW) is found


def test_only_what_began_at_about_the_same_time_for_the_same_reason_is_together() -> None:
    own = refusal(timedelta(hours=1))
    earlier = [refusal(timedelta(hours=2) + TOGETHER_WITHIN)] * 5
    otherwise = [refusal(timedelta(hours=1), Reason.TOKEN_REJECTED)] * 5
    assert verdict(own, [own, *earlier, *otherwise], 11, now=NOW) is Verdict.CONFIRMED
    near = [refusal(TOGETHER_WITHIN)] * 2
    assert verdict(own, [own, *near], 11, now=NOW) is Verdict.TOGETHER


@given(refusals, st.integers(0, 200))
def test_what_an_operator_is_told_is_what_the_verdicts_go_by(found: list[Refusal], more: int) -> None:
    live = len(found) + more
    verdicts = {verdict(own, found, live, now=NOW + timedelta(days=1)) for own in found}
    told = largest_together(found, live)
    assert (told is not None) == (Verdict.TOGETHER in verdicts)
    if told is not None:
        assert 3 <= told.refused <= told.live == live
        assert f"refuses {told.refused} of {live} installs" in told.sentence


def test_it_names_the_setting_to_look_at() -> None:
    told = {reason: largest_together([refusal(reason=reason)] * 3, 3) for reason in REASONS}
    removal, secret, scope = (told[reason] for reason in REASONS)
    assert removal is not None
    assert "SEGMENT_CONFIG_API_URL" in removal.sentence
    assert "404 (code 5): install not found" in removal.sentence
    assert secret is not None
    assert "SEGMENT_CLIENT_SECRET" in secret.sentence
    assert scope is not None
    assert "scope" in scope.sentence
