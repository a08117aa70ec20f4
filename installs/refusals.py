"""When Segment refuses an install's token: what one refusal proves, and what it takes to act on it.

Nothing follows from one answer. A refusal counts when Segment repeats it some minutes later, in its own form and for
the same reason. It does not count while a share of all installs turned bad together: that is a fault of the App's
settings or of Segment, and no customer's doing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlmodel.ext.asyncio.session import AsyncSession

from enable_with_segment.db.control import install_tokens
from enable_with_segment.db.control.install_tokens import Refusal
from enable_with_segment.installs.reasons import Reason

CONFIRM_AFTER = timedelta(minutes=5)
"""Between the first refusal and the one that confirms it."""

TOGETHER_WITHIN = timedelta(days=3)
"""Installs whose refusals began within this span of each other turned bad together: each is looked at once a day."""

FEWEST_TOGETHER = 3
SHARE_TOGETHER = 0.2

_ADVICE = {
    Reason.REMOVAL_REPORTED: "check SEGMENT_CONFIG_API_URL, and whether the App is still there in Segment",
    Reason.REFRESH_REFUSED: "check SEGMENT_CLIENT_ID and SEGMENT_CLIENT_SECRET, and the App in Segment",
    Reason.TOKEN_REJECTED: "check the scope of the App in Segment, and SEGMENT_CONFIG_API_URL",
}


class Verdict(StrEnum):
    """What a refusal proves."""

    UNCONFIRMED = "unconfirmed"
    """Segment has not said it for long enough: ask again."""
    TOGETHER = "together"
    """So many installs turned bad together that it is not about this one: ask again, and alert."""
    CONFIRMED = "confirmed"


@dataclass(frozen=True, slots=True)
class Together:
    """Installs that turned bad together.

    Attributes:
        reason: why Segment refuses them.
        refused, live: how many of how many installs.
        since: when the first one was refused.
        text: Segment's words to one of them.
    """

    reason: Reason
    refused: int
    live: int
    since: datetime
    text: str

    @property
    def sentence(self) -> str:
        """Return what an operator reads."""
        return (
            f"Segment refuses {self.refused} of {self.live} installs ({self.text}). So many at once are a fault of the "
            f"App's settings or of Segment: {_ADVICE.get(self.reason, 'check the App in Segment')}. "
            "Nothing is disconnected or erased meanwhile."
        )


def verdict(refusal: Refusal, refusals: Collection[Refusal], live: int, *, now: datetime) -> Verdict:
    """Judge a refusal.

    Args:
        refusal: the install's own; ``since`` is its first answer of this kind.
        refusals: those of all installs, its own included.
        live: how many installs there are.
    """
    if _are_many(_around(refusal, refusals), live):
        return Verdict.TOGETHER
    return Verdict.CONFIRMED if now - refusal.since >= CONFIRM_AFTER else Verdict.UNCONFIRMED


def largest_together(refusals: Collection[Refusal], live: int) -> Together | None:
    """Return the largest group of installs that turned bad together, ``None`` if there is none."""
    largest: list[Refusal] = []
    for reason in {refusal.reason for refusal in refusals}:
        group = sorted((refusal for refusal in refusals if refusal.reason == reason), key=lambda r: r.since)
        instants = [refusal.since for refusal in group]
        for instant in instants:
            begin, end = (
                bisect_left(instants, instant - TOGETHER_WITHIN),
                bisect_right(instants, instant + TOGETHER_WITHIN),
            )
            if end - begin > len(largest):
                largest = group[begin:end]
    if not _are_many(largest, live):
        return None
    first = largest[0]
    return Together(Reason(first.reason), len(largest), live, first.since, first.text)


async def read_together(session: AsyncSession) -> Together | None:
    """Read the refusals of all installs and return the largest group that turned bad together."""
    refusals = (await install_tokens.refusals(session)).values()
    if len(refusals) < FEWEST_TOGETHER:
        return None
    return largest_together(refusals, await install_tokens.count_live(session))


def _are_many(group: Collection[Refusal], live: int) -> bool:
    return len(group) >= FEWEST_TOGETHER and len(group) >= SHARE_TOGETHER * live


def _around(center: Refusal, refusals: Collection[Refusal]) -> list[Refusal]:
    return [
        refusal
        for refusal in refusals
        if refusal.reason == center.reason and abs(refusal.since - center.since) <= TOGETHER_WITHIN
    ]
