"""Who was erased, and which of their events are kept from the handlers; the same rules on every engine."""

from __future__ import annotations

from datetime import datetime, timedelta

#: A further delete message within this time is the same deletion: Segment sends one for each source (contract 7.1).
SAME_DELETION = timedelta(hours=24)


def reach(occurred_at: datetime, received_at: datetime) -> datetime:
    """Up to when a delete covers: a device clock that runs ahead must not suppress what is still to come."""
    return min(occurred_at, received_at)


def id_to_delete(event_type: str, person: str, other: str | None) -> str | None:
    """Return whom an event deletes: a delete its person, a late merge its other id, if that is another one."""
    if event_type == "delete":
        return person
    return None if other == person else other


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
