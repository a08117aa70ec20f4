"""Which events this process has handed out.

Only one process hands out the events of an SQLite log, so leases need not be written down: when it dies, everything
it held is free at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(slots=True)
class Lease:
    """One event that somebody works on."""

    name: str
    until: datetime
    account: str
    component: str
    subject: str | None
    occurred_at: datetime
    attempts: int
    outcomes: str | None


class Leases:
    """The leases by event id."""

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def add(self, event_id: int, lease: Lease) -> None:
        """Hand an event out, whoever held it before."""
        self._leases[event_id] = lease

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

    def end(self, event_ids: Iterable[int], name: str) -> None:
        """Give events back."""
        for event_id in event_ids:
            if self.of(event_id, name) is not None:
                del self._leases[event_id]

    def work_on(self, account: str, component: str, erased: dict[str, datetime], now: datetime) -> bool:
        """Tell whether somebody works on an event of people who are to be erased."""
        return any(
            lease.until > now
            and lease.subject in erased
            and (lease.account, lease.component) == (account, component)
            and lease.occurred_at <= erased[lease.subject]
            for lease in self._leases.values()
        )
