"""Whose events are whose: what is stored of some people, and which ids are one person's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from enable_with_segment.db.event_log.instants import to_microseconds
from enable_with_segment.db.event_log.sqlite.catalogue import Catalogue, chunks
from enable_with_segment.db.event_log.sqlite.segment import Segment, placeholders
from enable_with_segment.db.event_log.sqlite.store import Store


class PersonEvent(NamedTuple):
    """What matters of an event when people are erased."""

    segment: Segment
    id: int
    type: str
    occurred_at: int
    state: int
    person_hash: str | None
    device_hash: str | None
    previous_hash: str | None
    outcomes: str | None

    @property
    def subject(self) -> str:
        """Whose it is: the person's, or the device's while nobody is known."""
        return self.person_hash or self.device_hash or ""


def events_of(
    catalogue: Catalogue, segments: Iterable[Segment], account: str, component: str, subjects: Collection[str]
) -> Iterator[PersonEvent]:
    """Every event whose person, or whose device while no person is known, is one of the subjects."""
    for segment in segments:
        for chunk in chunks(sorted(subjects)):
            rows = segment.select(
                "SELECT id, type, occurred_at, state, person_hash, device_hash, previous_hash, outcomes, origin"  # noqa: S608
                f" FROM events WHERE id IN (SELECT id FROM people WHERE subject IN ({placeholders(len(chunk))}))",
                chunk,
            )
            for *values, origin_id in rows:
                origin = catalogue.origin(origin_id)
                if (origin.account, origin.component) == (account, component):
                    yield PersonEvent(segment, *values)


def merged_hashes(store: Store, account: str, component: str, person_hash: str, *, through: datetime) -> set[str]:
    """Return the person, every id that was merged into them by alias, and the devices they were seen on.

    Args:
        through: what happened later does not count.
    """
    people, devices, frontier = {person_hash}, set[str](), {person_hash}
    until = to_microseconds(through)
    while frontier:
        found = set[str]()
        for row in events_of(store.catalogue, store.segments, account, component, frontier):
            if row.person_hash is None or row.occurred_at > until:  # a device of the same name is not the person
                continue
            if row.device_hash is not None:
                devices.add(row.device_hash)
            if row.previous_hash is not None:
                found.add(row.previous_hash)
        frontier = found - people
        people |= frontier
    return people | devices
