"""Who was erased, and which of their events are kept from the handlers; the same rules on every engine."""

from __future__ import annotations

from datetime import datetime, timedelta

#: A further delete message within this time is the same deletion: Segment sends one for each source (contract 7.1).
SAME_DELETION = timedelta(hours=24)


def erased_through(
    event_type: str, occurred_at: datetime, *, person: datetime | None, merge: datetime | None
) -> datetime | None:
    """Return up to when the deletion reaches that keeps an event from the handlers; ``None`` if they get it.

    A delete they always get. An alias they do not get as such when it comes too late for a deletion: its other id is
    one of its own then (``subscriptions.dispatch.late_merge``).

    Args:
        person: up to when the event's person, or device, was deleted.
        merge: the same for an alias that comes too late.
    """
    if event_type == "delete":
        return None
    if event_type == "alias":
        return merge
    return person if person is not None and occurred_at <= person else None
