"""What was sent to a service, and what has to be true of it therefore, whatever happened to the service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from enable_with_segment.db.event_log.records import NewEvent
from tests.db.event_log.events import new_event


@dataclass
class Message:
    """One message of a sender; ``event_id`` is there once the log is known to have it."""

    message_id: str
    kind: str
    person: str | None
    device: str | None
    previous: str | None
    occurred_at: datetime
    received_at: datetime
    event_id: int | None = None
    answered_again: int = 0
    unanswered: int = 0

    @property
    def subject(self) -> str:
        """Whose it is: the person's, or the device's while nobody is known."""
        return self.person or self.device or ""

    @property
    def through(self) -> datetime:
        """Up to when a delete erases."""
        return min(self.occurred_at, self.received_at)

    @property
    def body(self) -> bytes:
        """What was received."""
        named = {"userId": self.person, "anonymousId": self.device, "previousId": self.previous}
        fields = {name: value for name, value in named.items() if value is not None}
        timestamp = self.occurred_at.isoformat()
        return json.dumps(
            {"type": self.kind, "event": "Step", "messageId": self.message_id, "timestamp": timestamp, **fields}
        ).encode()

    def event(self, received_at: datetime) -> NewEvent:
        """Return it as it goes into the log. In place of hashes stand the ids."""
        return new_event(
            self.message_id,
            scope=f"install:{self.message_id[0]}",
            received_at=received_at,
            occurred_at=self.occurred_at,
            install_id=None,
            type=self.kind,
            event="Step" if self.kind == "track" else None,
            person_hash=self.person,
            device_hash=self.device,
            previous_hash=self.previous,
            body=self.body,
        )


class Ledger:
    """All messages, and who is erased.

    Attributes:
        erased: ids of people and devices of whom everything up to an instant has to be gone.
    """

    def __init__(self) -> None:
        self.sent: dict[str, Message] = {}
        self.erased: dict[str, datetime] = {}

    def stored(self, kind: str | None = None) -> Iterator[Message]:
        """Yield the messages that the log has."""
        return (one for one in self.sent.values() if one.event_id is not None and kind in (None, one.kind))

    def merged(self, person: str, counts: Callable[[Message], bool] = lambda _: True) -> set[str]:
        """Return the person, the ids that were merged into them, and their devices, by the messages that count."""
        people, devices, frontier = {person}, set[str](), {person}
        while frontier:
            rows = [one for one in self.stored() if one.person in frontier and counts(one)]
            devices |= {one.device for one in rows if one.device}
            frontier = {one.previous for one in rows if one.previous} - people
            people |= frontier
        return people | devices

    def note_erased(self, whom: Iterable[str], through: datetime) -> None:
        """Note that a deletion of some ids is finished."""
        for one in whom:
            self.erased[one] = max(through, self.erased.get(one, through))

    def is_erased(self, subject: str, occurred_at: datetime) -> bool:
        """Tell whether something has to be gone."""
        return subject in self.erased and occurred_at <= self.erased[subject]

    def may_be_erased(self, message: Message, *, but: Message | None = None) -> bool:
        """Tell whether anybody ever asked for a deletion that covers a message, other than one of them."""
        return any(
            message.subject in self.merged(delete.person or "") and message.occurred_at <= delete.occurred_at
            for delete in self.sent.values()
            if delete.kind == "delete" and delete is not but
        )
