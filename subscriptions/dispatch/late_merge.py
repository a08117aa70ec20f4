"""A merge that arrives after the person it names was deleted: its other id is to be deleted as well.

While a deletion waits, an alias is handed over before it, and the partner learns what to erase along. After that the
alias itself must not be handed over: it would bring the person back. What the partner holds under the other id would
stay for ever, though, so the handlers of ``delete`` get that id (contract 7.1: merged identities are deleted too).
"""

from __future__ import annotations

from datetime import datetime

from enable_with_segment.components.event import Event


def deletion_of_other_id(alias: Event, erased_through: datetime) -> Event | None:
    """Return a delete of the id that an alias merges into a deleted person; ``None`` when it names no other one.

    Args:
        erased_through: up to when the person was deleted, and so the other id.
    """
    other = alias.previous_id
    if other is None or other == alias.user_id:
        return None
    payload = {
        "type": "delete",
        "messageId": alias.message_id,
        "userId": other,
        "timestamp": erased_through.isoformat(),
    }
    return Event(payload, received_at=alias.received_at)
