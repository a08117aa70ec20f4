"""What a partner may import: the names are a promise, so a change of the list is a change for partners."""

from __future__ import annotations

import subprocess
import sys

import pytest

import enable_with_segment
from enable_with_segment import testing

PROMISED = [
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


def test_the_public_names_are_those_that_were_promised() -> None:
    assert sorted(enable_with_segment.__all__) == PROMISED
    assert set(PROMISED) <= set(dir(enable_with_segment))
    for name in PROMISED:
        assert getattr(enable_with_segment, name) is not None


def test_what_tests_of_partners_may_import_is_there() -> None:
    assert sorted(testing.__all__) == ["Delivered", "Sandbox", "SandboxConfig", "acme_crm", "deliver"]
    for name in testing.__all__:
        assert getattr(testing, name) is not None
    with pytest.raises(AttributeError):
        testing.Nothing  # noqa: B018


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, enable_with_segment; print([m for m in sys.modules if m.startswith('enable_with_segment.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"
