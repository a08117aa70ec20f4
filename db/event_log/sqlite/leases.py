"""Which events this process has handed out.

Only one process hands out the events of an SQLite log, so leases need not be in the database: when it dies,
everything it held is free at once. A file beside the log only remembers what handlers had been called with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from enable_with_segment.db.event_log.deletion import Tenant
from enable_with_segment.db.event_log.records import LEFT_TO_IT, LONGEST_LEASE
from enable_with_segment.db.event_log.sqlite.held_file import HeldFile


@dataclass(slots=True)
class Lease:
    """One event that somebody works on."""

    name: str
    until: datetime
    tenant: Tenant
    subject: str | None
    """The person, or the device while no person is known."""
    occurred_at: datetime
    attempts: int
    outcomes: str | None
    begun: bool = False
    """Whether a handler was called, under this lease or under an earlier one that nobody ended."""

    @property
    def whose(self) -> tuple[Tenant, str | None]:
        """The person, or the device, that the event is of."""
        return self.tenant, self.subject


class Leases:
    """The leases by event id."""

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._of_person: dict[tuple[Tenant, str | None], set[int]] = {}
        self._waits_for: dict[int, int] = {}
        self._file: HeldFile | None = None
        self._left_over: set[int] = set()
        self._turn = 0

    def remember_in(self, file: HeldFile) -> None:
        """Write down what is begun, and learn what was left over by a process that died."""
        self._file = file
        self._left_over = set(file.left_over)

    def forget(self) -> None:
        """Let go of everything; whoever comes next learns what was begun and not ended."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._leases.clear()
        self._of_person.clear()
        self._waits_for.clear()

    def next_turn(self) -> int:
        """Return a number that is one higher each time, so that senders can be served in turns."""
        self._turn += 1
        return self._turn

    def __len__(self) -> int:
        return len(self._leases)

    def add(self, leases: Iterable[tuple[int, Lease]]) -> None:
        """Hand events out, whoever held them before."""
        taken = dict(leases)
        self._leases.update(taken)
        for event_id, lease in taken.items():
            self._of_person.setdefault(lease.whose, set()).add(event_id)
        self._left_over.difference_update(taken)

    def begin(self, event_ids: Iterable[int], name: str) -> None:
        """Note that handlers are about to be called with events."""
        begun = []
        for event_id in event_ids:
            lease = self.of(event_id, name)
            if lease is not None and not lease.begun:
                lease.begun = True
                begun.append(event_id)
        if self._file is not None and begun:
            self._file.add(begun)

    def was_interrupted(self, event_id: int) -> bool:
        """Tell whether a handler was called with the event and nobody ever said what became of it."""
        lease = self._leases.get(event_id)
        return event_id in self._left_over if lease is None else lease.begun

    def knows(self, event_id: int) -> bool:
        """Tell whether anybody has the event, or had it and never said what became of it."""
        return event_id in self._leases or event_id in self._left_over

    def is_held(self, event_id: int, now: datetime) -> bool:
        """Tell whether somebody's time with an event still runs."""
        lease = self._leases.get(event_id)
        return lease is not None and lease.until > now

    def of(self, event_id: int, name: str) -> Lease | None:
        """Return the lease of an event if it is still this one."""
        lease = self._leases.get(event_id)
        return lease if lease is not None and lease.name == name else None

    def renew(self, event_ids: Iterable[int], name: str, until: datetime) -> None:
        """Let leases run longer."""
        for event_id in event_ids:
            lease = self.of(event_id, name)
            if lease is not None:
                lease.until = until

    def cut_short(self, now: datetime) -> None:
        """Let leases end soon that were taken while the clock was ahead, unless they are renewed."""
        for lease in self._leases.values():
            if lease.until > now + LONGEST_LEASE:
                lease.until = now + LEFT_TO_IT

    def take_back(self, event_ids: Iterable[int], name: str) -> None:
        """Undo a claim that nobody heard of; what was known of the events before stays known."""
        for event_id in event_ids:
            lease = self.of(event_id, name)
            if lease is not None:
                self._drop(event_id)
                if lease.begun:
                    self._left_over.add(event_id)

    def end(self, event_ids: Iterable[int], name: str) -> None:
        """Give events back: an attempt has ended, or none was made."""
        ended = [event_id for event_id in event_ids if self.of(event_id, name) is not None]
        for event_id in ended:
            self._drop(event_id)
        if self._file is not None and ended:
            self._file.remove(ended)

    def _drop(self, event_id: int) -> None:
        whose = self._leases.pop(event_id).whose
        theirs = self._of_person[whose]
        theirs.discard(event_id)
        if not theirs:
            del self._of_person[whose]

    def has_to_wait(self, deletion_id: int, tenant: Tenant, covered: dict[str, datetime], now: datetime) -> bool:
        """Return True if an event that a deletion covers is leased; the deletion must wait."""
        for subject, through in covered.items():
            for event_id in self._of_person.get((tenant, subject), ()):
                if self.is_held(event_id, now) and self._leases[event_id].occurred_at <= through:
                    self._waits_for[deletion_id] = event_id
                    return True
        return False

    def still_waits(self, deletion_id: int, now: datetime) -> bool:
        """Return True while the event is leased that a deletion was found to wait for. Cheap, so that many may wait."""
        event_id = self._waits_for.get(deletion_id)
        if event_id is None:
            return False
        if self.is_held(event_id, now):
            return True
        del self._waits_for[deletion_id]
        return False
