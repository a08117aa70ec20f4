"""Destinations of the Config API: request bodies built, answers read (contract 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from enable_with_segment.segment_api.errors import InvalidAnswer, foreign_text
from enable_with_segment.segment_api.names import setting_key, setting_name

API_KEY_SETTING = "apiKey"
"""The setting whose value Segment replays as the user of the Basic header (contract 5.3)."""

_MASKS = ("•", "*")


@dataclass(frozen=True, slots=True)
class DestinationRequest:
    """What to create, or what to change. ``None`` leaves a field of an existing destination alone.

    Attributes:
        name: the full name.
        enabled: whether events flow.
        api_key: the partner's key for this customer.
        settings: further settings by bare key.
    """

    name: str
    enabled: bool | None = None
    api_key: str | None = field(default=None, repr=False)
    settings: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination as Segment described it. Whatever else the answer held is ignored (case 53).

    Attributes:
        name: the full name.
        enabled: whether events flow.
        display_name: the catalog's name, which customers use in ``integrations``; may be empty.
        settings: by bare key, clear or masked as Segment gave them.
    """

    name: str
    enabled: bool
    display_name: str
    settings: Mapping[str, object] = field(repr=False)

    @property
    def api_key(self) -> str | None:
        """The key it holds, ``None`` when that cannot be known: masked, empty or not shown (contract 3.3)."""
        value = self.settings.get(API_KEY_SETTING)
        if not isinstance(value, str) or not value or is_masked(value):
            return None
        return value

    @property
    def api_key_tail(self) -> str | None:
        """The end of a masked key, ``None`` when the mask shows none of it."""
        value = self.settings.get(API_KEY_SETTING)
        if not isinstance(value, str) or not is_masked(value):
            return None
        return value.lstrip("".join(_MASKS)) or None


def is_masked(value: str) -> bool:
    """Tell whether a setting's value is a mask: it holds a bullet, or begins with asterisks (Appendix A 27)."""
    return "•" in value or value.startswith("**")


def create_body(request: DestinationRequest) -> dict[str, Any]:
    """Build the body of a create: enabled must be said, or the destination starts switched off."""
    return {
        "destination": {
            "name": request.name,
            "connection_mode": "CLOUD",
            "config": _config(request),
            "enabled": bool(request.enabled),
        }
    }


def update_body(request: DestinationRequest) -> dict[str, Any]:
    """Build the body of an update: the mask stands beside the destination and names exactly what the body holds.

    A masked path without a value would be set to zero (contract 3.3), so the mask is made from the body. A change of
    the key or of settings sends the connection mode too.
    """
    changes: dict[str, Any] = {}
    if request.enabled is not None:
        changes["enabled"] = request.enabled
    config = _config(request)
    if config:
        changes["config"] = config
        changes["connection_mode"] = "CLOUD"
    return {
        "destination": {"name": request.name, **changes},
        "update_mask": {"paths": [f"destination.{field}" for field in changes]},
    }


def read_destination(body: Mapping[str, Any]) -> Destination:
    """Read a destination object.

    Raises:
        InvalidAnswer: no name, or an ``enabled`` that is neither true nor false.
    """
    name, enabled = body.get("name"), body.get("enabled", False)
    if not isinstance(name, str) or "/destinations/" not in name:
        raise InvalidAnswer("the answer is not a destination")
    if enabled in ("true", "false"):
        enabled = enabled == "true"
    if not isinstance(enabled, bool):
        raise InvalidAnswer("the destination's 'enabled' is neither true nor false")
    return Destination(name, enabled, foreign_text(body.get("display_name")), _read_config(body.get("config")))


def _config(request: DestinationRequest) -> list[dict[str, Any]]:
    settings: dict[str, object] = dict(request.settings)
    if request.api_key is not None:
        settings = {API_KEY_SETTING: request.api_key} | {k: v for k, v in settings.items() if k != API_KEY_SETTING}
    return [{"name": setting_name(request.name, key), "value": value} for key, value in settings.items()]


def _read_config(config: object) -> dict[str, object]:
    entries = config if isinstance(config, list) else []
    return {
        setting_key(entry["name"]): entry.get("value")
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    }
