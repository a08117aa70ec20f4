"""From an event that was checked to the record that the event log stores."""

from __future__ import annotations

from collections.abc import Mapping

from enable_with_segment.components.event import Event
from enable_with_segment.components.setting import SettingValue
from enable_with_segment.db.event_log.message_key import key_of_body, key_of_message
from enable_with_segment.db.event_log.records import NewEvent
from enable_with_segment.db.event_log.storable_text import storable
from enable_with_segment.installs.key_cache import KeyHolder
from enable_with_segment.subscriptions.receiving.person_hash import PersonHash


def new_event(
    event: Event,
    body: bytes,
    *,
    holder: KeyHolder,
    settings: Mapping[str, SettingValue],
    person_hash: PersonHash,
) -> NewEvent:
    """Build the log's record of an event that was checked."""
    message_id = event.message_id
    name = event.event if event.type == "track" else None
    return NewEvent(
        scope=holder.scope,
        dedupe_key=key_of_body(body) if message_id is None else key_of_message(message_id),
        received_at=event.received_at,
        # A device clock that runs ahead must not take an event out of a deletion's reach.
        occurred_at=min(event.timestamp, event.received_at),
        account=holder.account,
        component=holder.component,
        key_id=holder.key_id,
        install_id=holder.install_id,
        message_id=None if message_id is None else storable(message_id),
        type=event.type,
        event=None if name is None else storable(name),
        person_hash=person_hash.of(event.user_id),
        device_hash=person_hash.of(event.anonymous_id),
        previous_hash=person_hash.of(event.previous_id) if event.type == "alias" else None,
        body=body,
        settings=settings,
        replay=event.is_replay,
    )
