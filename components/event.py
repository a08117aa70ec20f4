"""One event as a handler sees it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from enable_with_segment.components.fields import Fields, as_text, spellings_of
from enable_with_segment.components.lazy import lazy
from enable_with_segment.components.timestamps import parse_timestamp

_OF_EVERY_EVENT = ("type", "action", "messageId", "userId", "anonymousId", "timestamp", "receivedAt")
EVENT_TYPES = ("identify", "track", "page", "screen", "group", "alias", "delete")


class Event:
    """An event of Segment's spec (contract 6), tolerant of every spelling in use (contract 5.4).

    Args:
        raw: the JSON object as it was delivered.
        received_at: when this service got it; the event's time when the event names none.
        display_name: what Segment calls the destination, needed to recognise a replay.

    Attributes:
        type: ``identify``, ``track``, ... in lower case; empty when the event names none. ``action`` is a fallback.
        message_id: Segment's id of the message; the same on every retry and replay, absent in test-suite events.
        user_id: the customer's id of the person, verbatim; a number comes as text.
        anonymous_id: the id of a device or session whose person is not known yet.
    """

    def __init__(
        self, raw: Mapping[str, Any], *, received_at: datetime | None = None, display_name: str | None = None
    ) -> None:
        self.raw = raw
        self.received_at = received_at or datetime.now(UTC)
        self._display_name = display_name
        self._spelled = spellings_of(raw, _OF_EVERY_EVENT)
        kind, action, message_id, user_id, anonymous_id, *_ = self._spelled
        self.type = ((kind and as_text(raw[kind])) or (action and as_text(raw[action])) or "").strip().lower()
        self.message_id = as_text(raw[message_id]) if message_id else None
        self.user_id = as_text(raw[user_id]) if user_id else None
        self.anonymous_id = as_text(raw[anonymous_id]) if anonymous_id else None

    @lazy
    def _fields(self) -> Fields:
        return Fields(self.raw)

    @property
    def previous_id(self) -> str | None:
        """On ``alias``: the id that is merged into ``user_id``; the anonymous id when none is named (contract 6.7)."""
        named = self._fields.text("previousId")
        return named or (self.anonymous_id if self.type == "alias" else None)

    @property
    def group_id(self) -> str | None:
        """On ``group``: the group's id. On other events: the group they happened in (``context.groupId``)."""
        return self._fields.text("groupId") or self.context.text("groupId")

    @property
    def event(self) -> str | None:
        """On ``track``: what happened, such as ``Order Completed``; a number comes as text."""
        return self._fields.text("event")

    @property
    def name(self) -> str | None:
        """The event's name on ``track``; the page's or screen's on ``page`` and ``screen``."""
        return self.event if self.type == "track" else self._fields.text("name") or self.properties.text("name")

    @property
    def category(self) -> str | None:
        """The category of a page or screen."""
        return self._fields.text("category")

    @lazy
    def traits(self) -> Fields:
        """What is known about the person or group; on other types the person's traits in ``context.traits``."""
        traits = self._fields.fields("traits")
        return traits if traits else self.context.fields("traits")

    @lazy
    def properties(self) -> Fields:
        """What is known about a track, page or screen event."""
        return self._fields.fields("properties")

    @lazy
    def context(self) -> Fields:
        """Where the event came from (contract 6.2); empty when it was null, ``[]`` or absent."""
        return self._fields.fields("context")

    @property
    def integrations(self) -> Mapping[str, Any]:
        """Destinations switched on or off by their display names, which are case-sensitive (contract 5.9)."""
        value = self.raw.get("integrations")
        return value if isinstance(value, dict) else {}

    @lazy
    def timestamp(self) -> datetime:
        """When it happened, aware, in UTC: ``timestamp``, else ``receivedAt``, else when it got here."""
        for name in self._spelled[-2:]:
            if name is not None and (instant := parse_timestamp(self.raw[name])) is not None:
                return instant
        return self.received_at

    @property
    def original_timestamp(self) -> datetime | None:
        """The device's own time; untrusted, and absent when its format cannot be read."""
        return parse_timestamp(self._fields.get("originalTimestamp"))

    @property
    def is_replay(self) -> bool:
        """Whether Segment sent this from its archive: all destinations off but ours (contract 5.11)."""
        integrations = self.integrations
        if not integrations or self._display_name is None or integrations.get("All") is not False:
            return False
        return bool(integrations.get(self._display_name))

    def __getitem__(self, key: str) -> Any:
        """Return any other top-level field, in any spelling.

        Raises:
            KeyError: the event has no such field.
        """
        return self._fields[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return any top-level field in any spelling, or ``default``."""
        return self._fields.get(key, default)

    def __repr__(self) -> str:
        return f"Event(type={self.type!r}, message_id={self.message_id!r})"
