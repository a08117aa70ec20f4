"""From the bytes of a delivery to what the event log stores: pure functions, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from db.event_log.message_key import key_of_body, key_of_message
from db.event_log.records import NewEvent
from subscriptions import strict_json
from subscriptions.api_keys import KeyHolder
from subscriptions.errors import DeliveryRefused
from subscriptions.event import Event
from subscriptions.person_hash import PersonHash
from subscriptions.setting import SettingValue

MAX_DEPTH = 200
_MAX_NAME = 200


def parse_event(body: bytes, *, received_at: datetime, display_name: str | None = None) -> Event:
    """Parse one event.

    Raises:
        DeliveryRefused: 400 when it is no JSON object.
    """
    try:
        payload = strict_json.parse(body, max_depth=MAX_DEPTH)
    except strict_json.JsonInvalid as error:
        raise DeliveryRefused(400, f"The body cannot be read: {error}.") from None
    if not isinstance(payload, dict):
        raise DeliveryRefused(400, "The body has to be one JSON object.")
    payload.pop("writeKey", None)  # never expected here, and none of the partner's business (contract 6.1)
    return Event(payload, received_at=received_at, display_name=display_name)


def check_event(event: Event) -> None:
    """Check what every event has to have (contract cases 80-82).

    Raises:
        DeliveryRefused: 400 naming what is missing.
    """
    if not event.type:
        raise DeliveryRefused(400, "The event has no 'type'.")
    if event.type == "track" and event.event is None:
        raise DeliveryRefused(400, "A track event needs its name in 'event'.")
    if event.type == "delete" and event.user_id is None:
        raise DeliveryRefused(400, "A delete needs a 'userId'.")
    if event.user_id is None and event.anonymous_id is None:
        raise DeliveryRefused(400, "The event has neither 'userId' nor 'anonymousId'.")


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
    return NewEvent(
        scope=f"install:{holder.install_id}" if holder.install_id else f"key:{holder.key_id}",
        dedupe_key=key_of_body(body) if message_id is None else key_of_message(message_id),
        received_at=event.received_at,
        occurred_at=event.timestamp,
        account=holder.account,
        component=holder.component,
        key_id=holder.key_id,
        install_id=holder.install_id,
        message_id=storable(message_id),
        type=event.type,
        event=storable(event.event) if event.type == "track" else None,
        person_hash=person_hash.of(event.user_id),
        device_hash=person_hash.of(event.anonymous_id),
        previous_hash=person_hash.of(event.previous_id) if event.type == "alias" else None,
        body=body,
        settings=settings,
        replay=event.is_replay,
    )


def storable(text: str | None) -> str | None:
    """Cut a text to a column's size and replace NUL, which PostgreSQL cannot store."""
    return None if text is None else text[:_MAX_NAME].replace("\0", "\ufffd")
