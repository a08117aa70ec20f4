"""What ``events show`` says of a handler."""

from __future__ import annotations

from datetime import timedelta

import pytest

from enable_with_segment.db.event_log.states import HandlerState
from enable_with_segment.oauth_app.cli.events import _outcome
from enable_with_segment.subscriptions.archive.receipts import HandlerReceipt
from tests.db.event_log.events import NOON, later

_DONE = HandlerReceipt("keep (track)", HandlerState.DONE, 1, later(seconds=5), timedelta(seconds=5.005), None, None)
_AGAIN = HandlerReceipt(
    "keep (track)", HandlerState.RETRY, 6, later(seconds=88), timedelta(seconds=88), later(minutes=9), "busy"
)


@pytest.mark.parametrize(
    ("receipt", "said"),
    [
        (_DONE, "done, noted 5.005 s after it was received"),
        (
            _AGAIN,
            f"retry, noted 88.000 s after it was received, attempt 6, next attempt at {NOON:%H}:09:00: busy",
        ),
    ],
)
def test_times_say_what_they_are(receipt: HandlerReceipt, said: str) -> None:
    assert _outcome(receipt) == said
