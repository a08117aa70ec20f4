"""The partner side of Segment: everything that a partner's own code may import is exported here.

Names are imported when they are first asked for, so that a command or a handler module loads only what it uses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enable_with_segment import testing
    from enable_with_segment.components.errors import (
        EventNotSupported,
        HandlerError,
        HandlerInvalid,
        InvalidEventPayload,
        RetryError,
        SubscriptionError,
        SubscriptionNotLoaded,
        ValidationError,
    )
    from enable_with_segment.components.event import Event
    from enable_with_segment.components.fields import Fields
    from enable_with_segment.components.install_context import InstallContext
    from enable_with_segment.components.setting import Setting
    from enable_with_segment.components.sink import Sink
    from enable_with_segment.components.subscription import Subscription
    from enable_with_segment.installs.connect_links import ConnectLinks
    from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
    from enable_with_segment.oauth_app.runtime.factories import open_connect_links
    from enable_with_segment.oauth_app.runtime.settings import Settings, load_settings
    from enable_with_segment.oauth_app.web.application import create_app
    from enable_with_segment.subscriptions.sinks.http import HttpSink
    from enable_with_segment.subscriptions.sinks.json_lines import JsonLinesSink
    from enable_with_segment.subscriptions.sinks.parquet import ParquetSink
    from enable_with_segment.subscriptions.sinks.sql import SqlSink

__all__ = [
    "ConnectLinks",
    "Event",
    "EventNotSupported",
    "Fields",
    "HandlerError",
    "HandlerInvalid",
    "HttpSink",
    "InstallContext",
    "InvalidEventPayload",
    "JsonLinesSink",
    "ParquetSink",
    "RetryError",
    "Setting",
    "Settings",
    "SettingsInvalid",
    "Sink",
    "SqlSink",
    "Subscription",
    "SubscriptionError",
    "SubscriptionNotLoaded",
    "ValidationError",
    "create_app",
    "load_settings",
    "open_connect_links",
    "testing",
]

_NAMES = {
    "components.errors": (
        "EventNotSupported",
        "HandlerError",
        "HandlerInvalid",
        "InvalidEventPayload",
        "RetryError",
        "SubscriptionError",
        "SubscriptionNotLoaded",
        "ValidationError",
    ),
    "components.event": ("Event",),
    "components.fields": ("Fields",),
    "components.install_context": ("InstallContext",),
    "components.setting": ("Setting",),
    "components.sink": ("Sink",),
    "components.subscription": ("Subscription",),
    "installs.connect_links": ("ConnectLinks",),
    "oauth_app.runtime.environment": ("SettingsInvalid",),
    "oauth_app.runtime.factories": ("open_connect_links",),
    "oauth_app.runtime.settings": ("Settings", "load_settings"),
    "oauth_app.web.application": ("create_app",),
    "subscriptions.sinks.http": ("HttpSink",),
    "subscriptions.sinks.json_lines": ("JsonLinesSink",),
    "subscriptions.sinks.parquet": ("ParquetSink",),
    "subscriptions.sinks.sql": ("SqlSink",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "testing":
        return import_module(f"{__name__}.testing")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
