"""An event in the one form that every sink stores or sends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from enable_with_segment.components.event import Event
from enable_with_segment.components.install_context import InstallContext

_OF_THE_TRANSPORT = ("receivedAt", "sentAt")


@dataclass(frozen=True, slots=True)
class SinkRecord:
    """One event. ``id`` is the same however often the event comes; ``payload`` is the event as it was sent.

    In every other text a NUL is U+FFFD, since not every store can hold it; deletions are looked for in the same form.
    """

    id: str
    account: str
    install_id: str | None
    message_id: str | None
    type: str
    name: str | None
    user_id: str | None
    anonymous_id: str | None
    previous_id: str | None
    timestamp: datetime
    received_at: datetime
    payload: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return JSON-ready values, with times in ISO 8601."""
        return {
            "id": self.id,
            "account": self.account,
            "install_id": self.install_id,
            "message_id": self.message_id,
            "type": self.type,
            "name": self.name,
            "user_id": self.user_id,
            "anonymous_id": self.anonymous_id,
            "previous_id": self.previous_id,
            "timestamp": self.timestamp.isoformat(),
            "received_at": self.received_at.isoformat(),
            "payload": self.payload,
        }


def record_of(event: Event, install: InstallContext) -> SinkRecord:
    """Build the record of an event."""
    return SinkRecord(
        id=_id(event, install),
        account=install.account,
        install_id=install.install_id,
        message_id=without_nul(event.message_id),
        type=without_nul(event.type) or "",
        name=without_nul(event.name),
        user_id=without_nul(event.user_id),
        anonymous_id=without_nul(event.anonymous_id),
        previous_id=without_nul(event.previous_id) if event.type == "alias" else None,
        timestamp=event.timestamp,
        received_at=event.received_at,
        payload=event.raw,
    )


def without_nul(text: str | None) -> str | None:
    """Return a text with U+FFFD in place of each NUL."""
    return text if text is None or "\0" not in text else text.replace("\0", "\ufffd")


def _id(event: Event, install: InstallContext) -> str:
    identity = event.message_id
    if identity is None:
        lasting = {key: value for key, value in event.raw.items() if key not in _OF_THE_TRANSPORT}
        identity = json.dumps(lasting, sort_keys=True, separators=(",", ":"))
    scope = install.install_id or f"{install.component}/{install.account}"
    return hashlib.sha256(f"{scope}\0{identity}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def merged_ids(user_id: str, merges: Iterable[tuple[str | None, str | None]]) -> set[str]:
    """Return every id that was merged into a person, directly or through another id.

    Args:
        merges: ``(previous id, id it was merged into)`` of alias events.
    """
    into: dict[str, set[str]] = {}
    for previous, target in merges:
        if previous is not None and target is not None:
            into.setdefault(target, set()).add(previous)
    found, waiting = {user_id}, [user_id]
    while waiting:
        fresh = into.get(waiting.pop(), set()) - found
        found |= fresh
        waiting += fresh
    return found
