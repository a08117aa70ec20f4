"""The request that Segment sends to a partner for one event (contract 5.3, 5.9)."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_sandbox.config import CatalogDestination
from enable_with_segment.segment_sandbox.config_api.destinations import setting_value
from enable_with_segment.segment_sandbox.jsontext import encode
from enable_with_segment.segment_sandbox.switches import Switches
from enable_with_segment.segment_sandbox.world import Destination

USER_AGENT = "Segment.io/1.0"


def build_request(
    endpoint: str, api_key: str, settings: Mapping[str, object], body: bytes, switches: Switches
) -> httpx.Request:
    """A POST with exactly the documented headers; an HTTP client's own defaults are left out."""
    headers = [
        ("Host", httpx.URL(endpoint).netloc.decode()),
        ("Accept", "*/*"),
        ("Authorization", basic(api_key)),
        ("Cache-Control", "no-cache"),
        ("Connection", "Keep-Alive"),
        ("Content-Length", str(len(body))),
        ("Content-Type", "application/json"),
        ("User-Agent", USER_AGENT),
    ]
    value = settings_header(settings, switches)
    if value is not None:
        headers.append(("X-Segment-Settings", value))
    return httpx.Request("POST", endpoint, headers=headers, content=body)


def basic(api_key: str) -> str:
    """Basic credentials with the key as the name and an empty password; the colon is always there."""
    return f"Basic {base64.b64encode(f'{api_key}:'.encode(errors='replace')).decode()}"


def settings_header(settings: Mapping[str, object], switches: Switches) -> str | None:
    """`X-Segment-Settings`: base64 of the custom settings; without any, what the switch says."""
    if settings:
        return base64.b64encode(encode(dict(settings))).decode()
    match switches.settings_header_when_empty:
        case "absent":
            return None
        case "empty":
            return ""
        case "empty_object":
            return "e30="
        case "plain":
            return "{}"


def api_key_and_settings(destination: Destination, entry: CatalogDestination) -> tuple[str, dict[str, object]]:
    """The partner's API key, and all other settings with their defaults."""
    values = {setting.key: setting_value(setting, destination) for setting in entry.settings}
    api_key = values.pop(entry.api_key_setting, "")
    return str(api_key or ""), values


def reason_not_to_send(event: Mapping[str, object], destination: Destination, entry: CatalogDestination) -> str | None:
    """The code for why an event is not sent to an enabled destination (contract 5.9); None when it is."""
    if event.get("type") not in entry.supported_types:
        return "UNSUPPORTED_EVENT_TYPE"
    if not allowed_by_integrations(event.get("integrations"), entry.display_name):
        return "FILTERED_BY_INTEGRATIONS_OBJECT"
    if event.get("type") in destination.dropped_types or event.get("event") in destination.dropped_events:
        return "FILTERED_BY_RULES"
    if event.get("channel") == "client" and not entry.accepts_client_channel:
        metadata = event.get("_metadata")
        unbundled = metadata.get("unbundled") if isinstance(metadata, dict) else None
        if not isinstance(unbundled, list) or entry.display_name not in unbundled:
            return "MESSAGE_SENT_CLIENT_SIDE"
    for setting in entry.settings:
        if setting.required and setting_value(setting, destination) in (None, ""):
            return "INVALID_SETTINGS"
    return None


def allowed_by_integrations(integrations: object, display_name: str) -> bool:
    """Whether the event's `integrations` lets it go to the destination of this display name."""
    if not isinstance(integrations, dict):
        return True
    if display_name in integrations:
        return integrations[display_name] is not False
    return integrations.get("All") is not False
