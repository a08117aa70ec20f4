"""What is decided about a stored token, over every state it can be in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.db.control.install_tokens import TokenHealth
from enable_with_segment.db.control.tables import InstallToken
from enable_with_segment.installs.token_decision import (
    REFRESH_WHEN_LEFT,
    Step,
    is_usable,
    may_have_minted,
    next_step,
    retry_at,
)
from enable_with_segment.segment_api.errors import (
    ConfigApiError,
    InternalFailure,
    InvalidAnswer,
    NotSent,
    RateLimited,
    SegmentError,
    SegmentUnavailable,
    Unauthenticated,
)

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
INSTANTS = st.integers(-7200, 7200).map(lambda seconds: NOW + timedelta(seconds=seconds))
LEASES = st.one_of(st.just((None, None)), st.tuples(st.just("lea_1"), INSTANTS))


@st.composite
def stored_tokens(draw: st.DrawFn) -> InstallToken:
    lease_id, leased_until = draw(LEASES)
    return InstallToken(
        install_id="ins_1",
        access_token_ciphertext=draw(st.sampled_from([None, "v1.k.x"])),
        expires_at=draw(INSTANTS),
        refreshed_at=NOW,
        health=draw(st.sampled_from(TokenHealth)),
        retry_at=draw(st.none() | INSTANTS),
        lease_id=lease_id,
        leased_until=leased_until,
    )


@given(stored_tokens(), st.booleans())
def test_every_step_has_its_reason(token: InstallToken, rejected: bool) -> None:
    step = next_step(token, now=NOW, rejected=rejected)
    leased = token.leased_until is not None and token.leased_until > NOW
    held_back = token.retry_at is not None and token.retry_at > NOW
    assert (step is Step.WAIT) == leased, "nobody uses or refreshes a token that is being replaced"
    if step is Step.USE:
        assert not rejected
        assert token.access_token_ciphertext is not None
        assert token.expires_at - NOW >= REFRESH_WHEN_LEFT
        assert token.health != TokenHealth.UNCERTAIN
        assert token.lease_id is None, "a lease that was never given back leaves the token in doubt"
    if step is Step.REFRESH:
        assert not held_back
        assert rejected or not is_usable(token, now=NOW)
    if step is Step.HOLD_BACK:
        assert held_back


@pytest.mark.parametrize(
    ("failed", "unseen"),
    [
        (NotSent("no connection"), False),
        (RateLimited("slow down", status=429), False),
        (SegmentUnavailable("upstream connect error", status=503), False),
        (SegmentUnavailable("no answer"), True),
        (SegmentUnavailable("bad gateway", status=502), True),
        (SegmentUnavailable("gateway timeout", status=504), True),
        (InternalFailure("anything", status=500), True),
        (InvalidAnswer("not JSON", status=200), True),
        (InvalidAnswer("too large"), True),
        (InvalidAnswer("a redirect", status=302), False),
        (Unauthenticated(401, 16, ""), False),
    ],
    ids=repr,
)
def test_what_may_have_issued_a_token(failed: SegmentError, unseen: bool) -> None:
    assert may_have_minted(failed) is unseen


@given(
    st.integers(1, 1000),
    st.floats(0, 1),
    st.none() | st.floats(0, 3600),
    st.booleans(),
    st.sampled_from([401, 429, 503]),
)
def test_pauses_are_bounded_and_never_shorter_than_asked(
    failures: int, jitter: float, asked: float | None, repeated: bool, status: int
) -> None:
    failed: SegmentError = SegmentUnavailable("", status=status, retry_after=asked)
    if status == 401:
        failed, asked = ConfigApiError(401, 16, ""), None
    until = retry_at(NOW, failures, failed, repeated=repeated, jitter=jitter)
    if until is None:
        assert status != 401
        assert not repeated
        assert failures < 3
        assert not asked or timedelta(seconds=asked) == timedelta(0)
        return
    assert until > NOW
    assert until - NOW >= timedelta(seconds=asked or 0)
    assert until - NOW <= max(timedelta(hours=1), timedelta(seconds=asked or 0))
