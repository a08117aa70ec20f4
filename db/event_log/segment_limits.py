"""When a log begins a new segment, and for how long it recognises messages; the same on every engine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """When a new segment is begun, and for how long messages are recognised as duplicates.

    A message is recognised at least for as long as ``dedupe`` says, and at most for one segment longer.
    """

    events: int = 2_000_000
    age: timedelta = timedelta(days=1)
    dedupe: timedelta = timedelta(days=30)
