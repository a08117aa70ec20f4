"""Reading a stored or delivered body as one event, and what every event has to have. Pure functions, no I/O."""

from __future__ import annotations

from datetime import datetime

from enable_with_segment.components import strict_json
from enable_with_segment.components.errors import DeliveryRefused
from enable_with_segment.components.event import Event

MAX_DEPTH = 200
NOT_ONE_OBJECT = "The body has to be one JSON object."
NO_TYPE = "The event has no 'type'."
NO_EVENT_NAME = "A track event needs its name in 'event'."
NO_USER_ID = "A delete needs a 'userId'."
NO_PERSON = "The event has neither 'userId' nor 'anonymousId'."
REFUSALS = frozenset({NOT_ONE_OBJECT, NO_TYPE, NO_EVENT_NAME, NO_USER_ID, NO_PERSON})
"""Sentences that say what is wrong with an event, whichever it is."""


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
        raise DeliveryRefused(400, NOT_ONE_OBJECT)
    payload.pop("writeKey", None)  # never expected here, and none of the partner's business (contract 6.1)
    return Event(payload, received_at=received_at, display_name=display_name)


def check_event(event: Event) -> None:
    """Check what every event has to have (contract cases 80-82).

    Raises:
        DeliveryRefused: 400 naming what is missing.
    """
    if not event.type:
        raise DeliveryRefused(400, NO_TYPE)
    if event.type == "track" and event.event is None:
        raise DeliveryRefused(400, NO_EVENT_NAME)
    if event.type == "delete" and event.user_id is None:
        raise DeliveryRefused(400, NO_USER_ID)
    if event.user_id is None and event.anonymous_id is None:
        raise DeliveryRefused(400, NO_PERSON)
