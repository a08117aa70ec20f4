"""What ingestion does to one event: check it, and complete it as Segment does (contract 6, 8.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from enable_with_segment.segment_sandbox.clock import timestamp
from enable_with_segment.segment_sandbox.jsontext import encode

Event = dict[str, object]

LARGEST_EVENT = 32 * 1024
LONGEST_MESSAGE_ID = 100
ENVELOPE_VERSION = 2
_IDS = ("userId", "anonymousId", "groupId", "previousId")
_REQUIRED_IDS = {"group": ("groupId",), "alias": ("userId", "previousId")}
_OBJECTS = {"properties": "properties_not_object", "traits": "traits_not_object"}
_STRINGS = {"name": "name_not_string", "category": "category_not_string"}


class DroppedEvent(ValueError):
    """An event that ingestion takes with a 200 and then drops; the code is Delivery Overview's (contract 5.10)."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known about an event beside its own fields."""

    received_at: datetime
    project_id: str
    message_id: str
    """The id to give the event if it has none."""
    channel: str = "server"
    client_ip: str = ""


def check(event: Mapping[str, object]) -> None:
    """Raise `DroppedEvent` unless the event is complete enough to be delivered."""
    if problem := next(_problems(event), None):
        raise DroppedEvent(problem)


def _problems(event: Mapping[str, object]) -> Iterator[str]:
    if _is_too_large(event):
        yield "bad_request"
    kind = event.get("type")
    if kind not in ("identify", "track", "page", "screen", "group", "alias"):
        yield "bad_request"
    if any(event.get(key) in (None, "") for key in _REQUIRED_IDS.get(str(kind), ())):
        yield "id_required"
    if not event.get("userId") and not event.get("anonymousId"):
        yield "no_user_anon_id"
    if not all(isinstance(event.get(key), (str, type(None))) for key in _IDS):
        yield "id_not_string"
    if kind == "track":
        if event.get("event") in (None, ""):
            yield "event_not_defined"
        if not isinstance(event.get("event"), str):
            yield "event_not_string"
    for key, code in _OBJECTS.items():
        if not isinstance(event.get(key), (dict, type(None))):
            yield code
    for key, code in _STRINGS.items():
        if kind in ("page", "screen") and not isinstance(event.get(key), (str, type(None))):
            yield code


def _is_too_large(event: Mapping[str, object]) -> bool:
    try:
        return len(encode(event)) > LARGEST_EVENT
    except RecursionError:
        return True


def complete(event: Mapping[str, object], envelope: Mapping[str, object], arrival: Arrival) -> Event:
    """The event as it is delivered: with ids, times, channel, and what the batch said for all its items."""
    context = _merged(envelope.get("context"), event.get("context"))
    if arrival.client_ip and (arrival.channel == "client" or context.get("direct") is True):
        context.setdefault("ip", arrival.client_ip)
    context.pop("direct", None)
    message_id = event.get("messageId")
    sent_at = parse_time(event.get("sentAt")) or parse_time(envelope.get("sentAt"))
    original = parse_time(event.get("originalTimestamp")) or parse_time(event.get("timestamp"))
    completed: Event = {key: value for key, value in event.items() if key.lower() != "writekey"}
    completed.update(
        context=context,
        integrations=_merged(envelope.get("integrations"), event.get("integrations")),
        messageId=message_id
        if isinstance(message_id, str) and 0 < len(message_id) <= LONGEST_MESSAGE_ID
        else arrival.message_id,
        channel=event.get("channel") if event.get("channel") in {"client", "mobile"} else arrival.channel,
        projectId=arrival.project_id,
        receivedAt=timestamp(arrival.received_at),
        sentAt=timestamp(sent_at or arrival.received_at),
        originalTimestamp=timestamp(original or arrival.received_at),
        timestamp=timestamp(corrected_time(arrival.received_at, sent_at, original)),
        version=ENVELOPE_VERSION,
    )
    return dict(sorted(completed.items()))


def corrected_time(received_at: datetime, sent_at: datetime | None, original: datetime | None) -> datetime:
    """The event's time with the device's clock error taken out (contract 6.1)."""
    if sent_at is None or original is None:
        return original or received_at
    try:
        return received_at - (sent_at - original)
    except OverflowError:
        return received_at


def parse_time(value: object) -> datetime | None:
    """An ISO 8601 time, in UTC when it names no zone; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _merged(common: object, own: object) -> dict[str, object]:
    return {**(common if isinstance(common, dict) else {}), **(own if isinstance(own, dict) else {})}
