"""Declaring a subscription: what is refused, and with which words."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest

from enable_with_segment import (
    Event,
    HandlerInvalid,
    Setting,
    Subscription,
    SubscriptionNotLoaded,
)
from enable_with_segment.components.install_context import InstallContext
from enable_with_segment.components.subscription import load_subscription


async def _unknown(event: Event, install: InstallContext, account: str) -> None: ...
async def _single(event: Event) -> None: ...
async def _many(events: list[Event]) -> None: ...
async def _anything(**arguments: Any) -> None: ...
def _blocking(event: Event) -> None: ...


@pytest.mark.parametrize(
    ("function", "condition", "words"),
    [
        (_unknown, {"type": "track"}, "asks for 'account'; the arguments it can have are event, install, settings"),
        (_many, {"type": "track"}, r"'events' is for handlers with batch="),
        (_single, {"type": "track", "batch": 5}, r"'event' is for handlers without batch="),
        (_anything, {"type": "track"}, "arguments are given by name: event, install, settings"),
        (_blocking, {"type": "track"}, r"has to be async: write 'async def _blocking\(...\)'"),
        (_single, {"type": "purchase"}, "no event type 'purchase'; there are identify, track"),
        (_single, {"type": "identify", "event": "Signed Up"}, "names a track event"),
        (_single, {"type": "track", "event": " "}, "names a track event"),
        (_many, {"type": "track", "batch": 0}, "batch has to be between 1 and 10000"),
    ],
)
def test_a_handler_that_cannot_work_is_refused_at_import(function: Any, condition: dict[str, Any], words: str) -> None:
    with pytest.raises(HandlerInvalid, match=words):
        Subscription("acme-crm").on(condition.pop("type"), **condition)(function)


def test_a_handler_is_registered_once_for_a_condition_and_returned_unchanged() -> None:
    subscription = Subscription("acme-crm")
    assert subscription.on("track", event="A")(_single) is _single
    subscription.on("track", event="B")(_single)
    assert [handler.key for handler in subscription.handlers] == ["_single (track A)", "_single (track B)"]
    assert subscription.handled_types == {"track"}
    with pytest.raises(HandlerInvalid, match="already"):
        subscription.on("track", event="A")(_single)


async def test_callable_objects_and_partials_can_be_handlers() -> None:
    class Store:
        async def __call__(self, event: Event) -> None: ...

    subscription = Subscription("acme-crm")
    subscription.on("track")(Store())
    subscription.on("page")(functools.partial(_single))
    assert [handler.key for handler in subscription.handlers] == ["Store (track)", "_single (page)"]


@pytest.mark.parametrize("name", ["", "Acme", "acme crm", "a/b", "-a", "x" * 64])
def test_a_name_has_to_fit_into_a_path(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a component's name"):
        Subscription(name)


def test_settings_are_checked_when_they_are_declared() -> None:
    with pytest.raises(ValueError, match="declares a setting twice"):
        Subscription("acme-crm", settings=[Setting("region"), Setting("region")])
    with pytest.raises(ValueError, match="type has to be one of str, bool, int, float, list, dict"):
        Setting("region", type=bytes)
    with pytest.raises(ValueError, match="has to be one of us, eu"):
        Setting("region", choices=["us", "eu"], default="mars")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("handlers", "write it as module:attribute"),
        (":crm", "write it as module:attribute"),
        ("no_such_module:crm", "there is no module 'no_such_module'"),
        ("partner_handlers.sub:crm", "there is no module 'partner_handlers.sub'"),
        ("partner_handlers:nothing", "module 'partner_handlers' has no such attribute"),
        ("partner_handlers:number", "'number' is a int, not a Subscription"),
    ],
)
def test_a_reference_that_cannot_be_loaded_says_why(partner_handlers: str, reference: str, words: str) -> None:
    with pytest.raises(SubscriptionNotLoaded, match=words):
        load_subscription(reference)


def test_a_reference_is_loaded(partner_handlers: str) -> None:
    assert load_subscription("partner_handlers:crm").name == "acme-crm"


def test_a_mistake_inside_the_module_comes_through(partner_handlers: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="missing_dependency"):
        load_subscription("broken_handlers:crm")


@pytest.fixture
def partner_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two modules of a partner on the path."""
    code = "from enable_with_segment import Subscription\ncrm = Subscription('acme-crm')\nnumber = 7\n"
    (tmp_path / "partner_handlers.py").write_text(code)
    (tmp_path / "broken_handlers.py").write_text("import missing_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("partner_handlers", "broken_handlers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return str(tmp_path)
