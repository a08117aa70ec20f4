"""Who was erased, and which of their events are kept from the handlers; the same rules on every engine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

#: A further delete message within this time is the same deletion: Segment sends one for each source (contract 7.1).
SAME_DELETION = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Up to when a person's events are not handled, and whether the deletion's own work is done."""

    through: datetime
    completed: bool

    def covers(self, *, event_type: str, occurred_at: datetime) -> bool:
        """Tell whether an event is kept from the handlers.

        A delete never is. An alias is not while the deletion still waits to be handled: it tells the partner which
        other id is to be erased along. When it comes after that, its other id is a deletion of its own
        (``subscriptions.dispatch.late_merge``).
        """
        if event_type == "delete" or (event_type == "alias" and not self.completed):
            return False
        return occurred_at <= self.through
