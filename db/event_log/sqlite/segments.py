"""The segments of a log, the oldest first: where an event is, where the next one goes, what can be dropped."""

from __future__ import annotations

import glob
import logging
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from enable_with_segment.db.event_log.log import SegmentLimits
from enable_with_segment.db.event_log.sqlite.bloom_filter import BloomFilters
from enable_with_segment.db.event_log.sqlite.connection import closed_on_failure
from enable_with_segment.db.event_log.sqlite.segment import Commits, Segment

logger = logging.getLogger(__name__)

_DIGITS = 15
_MICROSECOND = timedelta(microseconds=1)


class Segments:
    """The open segments beside a catalogue."""

    def __init__(self, catalogue: Path, limits: SegmentLimits, *, read_only: bool = False) -> None:
        self._catalogue = catalogue
        self._limits = limits
        self._age = limits.age // _MICROSECOND
        self._dedupe = limits.dedupe // _MICROSECOND
        self._commits = Commits()
        self._filters: BloomFilters[Segment] | None = None
        self._filters_since = 0
        self._segments: list[Segment] = []
        self._read_only = read_only
        with closed_on_failure(self.close):
            for first_id in self._first_ids() or [1]:
                self._segments.append(self._open(first_id))

    @property
    def active(self) -> Segment:
        """The segment that events are appended to."""
        return self._segments[-1]

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def newest_first(self) -> Iterator[Segment]:
        """Every segment, the active one first."""
        return reversed(self._segments)

    def of_event(self, event_id: int) -> Segment | None:
        """Return the segment that an event is or was in; ``None`` when it was dropped."""
        if event_id >= self.active.first_id:
            return self.active
        position = bisect_right(self._segments, event_id, key=lambda segment: segment.first_id)
        return self._segments[position - 1] if position else None

    @contextmanager
    def transaction(self, *, flushed: bool = True) -> Iterator[None]:
        """Commit whatever segments were begun meanwhile, the oldest first; roll all of them back on an exception.

        Args:
            flushed: return only when the disk has it. Otherwise it outlives the process, and a power cut may undo it
                together with all that came after it.
        """
        self._commits.flushed = flushed
        self._commits.begun.clear()
        try:
            yield
            for segment in self._segments:
                if segment.connection.in_transaction:
                    segment.connection.execute("COMMIT")
        except BaseException:
            for segment in self._segments:
                if segment.connection.in_transaction:
                    segment.connection.execute("ROLLBACK")
            # What was counted meanwhile was undone, or was committed in some of them and is not known to be.
            for segment in self._commits.begun:
                segment.recount()
            raise

    def refresh(self) -> None:
        """Notice what another process changed."""
        for segment in self._segments:
            segment.refresh()

    def rotate_if_due(self, now: int) -> None:
        """Begin a new segment when the active one is full or old; ``now`` in microseconds.

        One that is sealed already is the newest when the process died before it could begin another.
        """
        active = self.active
        is_full = active.sealed or active.count >= self._limits.events
        if active.count and (is_full or now - active.oldest >= self._age):
            active.seal()
            self._segments.append(self._open(active.next_id))
            self._filters = None

    def find(self, key: bytes, scope: int, now: int) -> tuple[Segment, int] | None:
        """Return the segment and the id of a message that is there within the dedupe window."""
        since = now - self._dedupe
        if self._filters is None or since < self._filters_since:
            self._filters_since = since
            self._filters = BloomFilters(
                (segment.keys, segment) for segment in reversed(self._segments) if segment.may_hold_since(since)
            )
        for segment in self._filters.holding(key):
            event_id = segment.find(key, scope) if segment.may_hold_since(since) else None
            if event_id is not None:
                return segment, event_id
        return None

    def drop_before(self, instant: int) -> int:
        """Delete whole segments whose events are older and settled; returns how many events that were."""
        dropped = 0
        self.refresh()
        for segment in self._segments[:-1]:
            if segment.newest < instant and not segment.waiting:
                dropped += self._drop(segment)
        return dropped

    def drop_over(self, limit: int) -> int:
        """Delete the oldest settled segments until the log takes no more than ``limit`` bytes."""
        dropped, total = 0, self.bytes()
        self.refresh()
        for segment in self._segments[:-1]:
            if total <= limit or segment.waiting:
                break
            total -= segment.bytes()
            dropped += self._drop(segment)
        return dropped

    def holding_deleted(self) -> list[Segment]:
        """Return those whose write-ahead log may still hold what was deleted."""
        return [segment for segment in self._segments if segment.holds_deleted]

    def bytes(self) -> int:
        """Return how much of the disk all segments take."""
        return sum(segment.bytes() for segment in self._segments)

    def close(self) -> None:
        """Close every file."""
        for segment in self._segments:
            segment.close()

    def _drop(self, segment: Segment) -> int:
        segment.close()
        for file in segment.files():
            file.unlink(missing_ok=True)
        self._segments = [other for other in self._segments if other is not segment]
        self._filters = None
        logger.info("Dropped an old segment of the event log with %d events", segment.count)
        return segment.count

    def _open(self, first_id: int) -> Segment:
        path = self._catalogue.with_name(f"{self._catalogue.name}.{first_id:0{_DIGITS}}")
        return Segment(path, first_id, capacity=self._limits.events, commits=self._commits, read_only=self._read_only)

    def _first_ids(self) -> list[int]:
        name = glob.escape(self._catalogue.name)
        found = self._catalogue.parent.glob(f"{name}.{'[0-9]' * _DIGITS}")
        return sorted(int(path.name.rpartition(".")[2]) for path in found)
