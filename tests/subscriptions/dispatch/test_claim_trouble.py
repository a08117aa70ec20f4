"""What the log says while no events can be claimed: when it begins, a count now and then, and when it is over."""

from __future__ import annotations

import logging

import pytest

from enable_with_segment.subscriptions.dispatch import claim_trouble
from enable_with_segment.subscriptions.dispatch.claim_trouble import ClaimTrouble


def test_trouble_that_lasts_is_told_once_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, claim_trouble.__name__)
    now = [1000.0]
    trouble = ClaimTrouble(lambda: now[0])
    trouble.over()
    for _ in range(75):
        trouble.met("another process writes to this event log")
        now[0] += 1
    trouble.met("the disk is gone")
    trouble.over()
    trouble.over()
    trouble.met("the disk is gone")
    assert caplog.messages == [
        "No events can be claimed: another process writes to this event log",
        "Still no events can be claimed: another process writes to this event log, 30 more times in 30 s",
        "Still no events can be claimed: another process writes to this event log, 30 more times in 30 s",
        "No events can be claimed: the disk is gone",
        "Events can be claimed again, after 76 times in 75 s that they could not",
        "No events can be claimed: the disk is gone",
    ]
