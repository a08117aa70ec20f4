"""Config API destinations without HTTP: their JSON form, checking settings, and update masks (contract 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from enable_with_segment.segment_sandbox.clock import timestamp
from enable_with_segment.segment_sandbox.config import CatalogDestination, SettingSpec
from enable_with_segment.segment_sandbox.config_api.errors import invalid_argument
from enable_with_segment.segment_sandbox.switches import Switches
from enable_with_segment.segment_sandbox.world import Destination

CONNECTION_MODES = frozenset({"UNSPECIFIED", "CLOUD", "DEVICE"})
MASKED = "••••••••"
_PYTHON: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "number": (int, float),
    "map": dict,
    "mixed": object,
}
_ZERO: Mapping[str, object] = {"string": "", "select": "", "boolean": False, "number": 0, "map": {}, "mixed": None}


@dataclass(frozen=True, slots=True)
class DestinationFields:
    """The `destination` object of a request, checked. None: the request did not give the field."""

    enabled: bool | None = None
    connection_mode: str | None = None
    config: Mapping[str, object] | None = None


def as_json(destination: Destination, entry: CatalogDestination, switches: Switches) -> dict[str, object]:
    """The destination object: every setting of the catalog entry, with defaults where nothing was set."""
    echo = switches.connection_mode_answer == "echo"
    return {
        "name": destination.name,
        "parent": destination.source,
        "display_name": entry.display_name,
        "enabled": destination.enabled,
        "connection_mode": destination.connection_mode if echo else "UNSPECIFIED",
        "config": [
            {
                "name": f"{destination.name}/config/{setting.key}",
                "display_name": setting.display_name,
                "value": _shown(setting, destination, mask=switches.mask_sensitive_settings),
                "type": setting.type,
            }
            for setting in entry.settings
        ],
        "create_time": timestamp(destination.created_at),
        "update_time": timestamp(destination.updated_at),
    }


def _shown(setting: SettingSpec, destination: Destination, *, mask: bool) -> object:
    value = setting_value(setting, destination)
    return MASKED if mask and setting.sensitive and value else value


def setting_value(setting: SettingSpec, destination: Destination) -> object:
    """What a setting is at present: the value that was set, else its default, else its type's zero value."""
    if setting.key in destination.config:
        return destination.config[setting.key]
    return _ZERO[setting.type] if setting.default is None else setting.default


def parse_fields(
    given: object, destination_name: str, entry: CatalogDestination, *, lenient: bool
) -> DestinationFields:
    """Check the `destination` object of a create or update. Raises `ConfigApiError` 400/3."""
    if not isinstance(given, dict):
        raise invalid_argument("destination is missing or not an object")
    if given.get("name", destination_name) != destination_name:
        raise invalid_argument("destination.name does not belong to this path")
    mode = given.get("connection_mode")
    if mode is not None and mode not in CONNECTION_MODES:
        raise invalid_argument("destination.connection_mode is not one of CLOUD, DEVICE, UNSPECIFIED")
    return DestinationFields(
        enabled=None if given.get("enabled") is None else _boolean(given["enabled"], "enabled", lenient=lenient),
        connection_mode=mode,
        config=None
        if given.get("config") is None
        else _parse_config(given["config"], destination_name, entry, lenient=lenient),
    )


def _parse_config(
    entries: object, destination_name: str, entry: CatalogDestination, *, lenient: bool
) -> dict[str, object]:
    if not isinstance(entries, list) or not all(isinstance(item, dict) for item in entries):
        raise invalid_argument("destination.config is not an array of objects")
    config: dict[str, object] = {}
    for item in entries:
        name = item.get("name")
        prefix, _, key = name.rpartition("/config/") if isinstance(name, str) else ("", "", "")
        if prefix != destination_name:
            raise invalid_argument("destination.config has an entry whose name is not a full setting name")
        setting = entry.setting(key)
        if setting is None:
            raise invalid_argument(f"setting {key} does not exist")
        config[key] = _checked_value(item.get("value"), setting, lenient=lenient)
    return config


def _checked_value(value: object, setting: SettingSpec, *, lenient: bool) -> object:
    if value is None:
        return _ZERO[setting.type]
    if setting.type == "boolean":
        return _boolean(value, setting.key, lenient=lenient)
    good = value in setting.choices if setting.type == "select" else isinstance(value, _PYTHON[setting.type])
    if not good or (setting.type == "number" and isinstance(value, bool)):
        raise invalid_argument(f"setting {setting.key} has a value of the wrong type")
    return value


def _boolean(value: object, name: str, *, lenient: bool) -> bool:
    if isinstance(value, bool):
        return value
    if lenient and value in {"true", "false"}:
        return value == "true"
    raise invalid_argument(f"{name} is not a boolean")


def parse_mask(body: Mapping[str, object], switches: Switches) -> frozenset[str]:
    """The fields that an update may touch, without their `destination.` prefix. Raises `ConfigApiError` 400/3."""
    mask = body.get("update_mask")
    nested = body.get("destination")
    if mask is None and switches.nested_update_mask and isinstance(nested, dict):
        mask = nested.get("update_mask")
    if mask is None:
        return frozenset()
    paths = mask.get("paths", []) if isinstance(mask, dict) else None
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise invalid_argument("update_mask.paths is not an array of strings")
    known = {"destination.enabled", "destination.config", "destination.connection_mode"}
    if switches.unknown_mask_path == "invalid_argument" and not known.issuperset(paths):
        raise invalid_argument("update_mask has an unknown path")
    return frozenset(path.removeprefix("destination.") for path in paths if path in known)


def apply_update(destination: Destination, fields: DestinationFields, mask: frozenset[str], now: datetime) -> None:
    """Change what the mask names: to the value given, or to the zero value when none was given."""
    if "enabled" in mask:
        destination.enabled = bool(fields.enabled)
    if "connection_mode" in mask:
        destination.connection_mode = fields.connection_mode or "UNSPECIFIED"
    if "config" in mask:
        destination.config = {} if fields.config is None else {**destination.config, **fields.config}
    if mask:
        destination.updated_at = now
