"""The oddities that real deliveries show, put into events on purpose (contract 5.4)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import Literal

from enable_with_segment.segment_sandbox.tracking.events import Event, parse_time

MIXED_RATE = 0.2
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def vary(event: Event, mode: Literal["none", "mixed", "all"], dice: random.Random) -> Event:
    """A copy of the event with anomalies.

    `mixed` gives one event in five a single oddity that loses nothing; `all` gives every event all of them,
    including those that lose its message id and context.
    """
    if mode == "none":
        return event
    if mode == "mixed":
        return dice.choice(_HARMLESS)(event) if dice.random() < MIXED_RATE else event
    for anomaly in (*_HARMLESS, *_HARSH):
        event = anomaly(event)
    return event


def go_time(iso: object) -> str:
    """A time as Go prints it, with nanoseconds, zone words and a monotonic reading: not ISO 8601."""
    moment = parse_time(iso)
    if moment is None:
        return str(iso)
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}907 +0000 UTC m=+51820.117442901"


def _version_as_text(event: Event) -> Event:
    return {**event, "version": "1.1"}


def _go_original_timestamp(event: Event) -> Event:
    return {**event, "originalTimestamp": go_time(event.get("originalTimestamp"))}


def _integrations_null(event: Event) -> Event:
    return event if event.get("integrations") else {**event, "integrations": None}


def _empty_context_as_array(event: Event) -> Event:
    return event if event.get("context") else {**event, "context": []}


def _context_null(event: Event) -> Event:
    return {**event, "context": None}


def _no_message_id(event: Event) -> Event:
    return {key: value for key, value in event.items() if key != "messageId"}


def _numbers_as_text(event: Event) -> Event:
    properties = event.get("properties")
    if not isinstance(properties, dict):
        return event
    numeric = {
        key: str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        for key, value in properties.items()
    }
    return {**event, "properties": numeric}


def _snake_case_traits(event: Event) -> Event:
    traits = event.get("traits")
    if not isinstance(traits, Mapping):
        return event
    return {**event, "traits": {_WORD_START.sub("_", key).lower(): value for key, value in traits.items()}}


_HARMLESS: tuple[Callable[[Event], Event], ...] = (
    _version_as_text,
    _go_original_timestamp,
    _integrations_null,
    _empty_context_as_array,
)
_HARSH: tuple[Callable[[Event], Event], ...] = (
    _context_null,
    _no_message_id,
    _numbers_as_text,
    _snake_case_traits,
)
