"""For the partner's own tests: handlers without a database or a server, and a Segment to run (docs/sandbox.md).

::

    from enable_with_segment.testing import deliver

    async def test_an_order_is_recorded():
        result = await deliver(crm, {"type": "track", "userId": "u-1", "event": "Order Completed"})
        assert result.status == 202
        assert result.outcomes["record_order"].state == "done"
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from enable_with_segment.components.errors import DeliveryRefused
from enable_with_segment.components.event_reader import check_event, parse_event
from enable_with_segment.components.install_context import InstallContext
from enable_with_segment.components.setting import SettingInvalid, resolve_settings
from enable_with_segment.components.subscription import Subscription
from enable_with_segment.subscriptions.dispatch.outcome import Verdict, batch_errors, judge

if TYPE_CHECKING:
    from enable_with_segment.segment_sandbox import Sandbox, SandboxConfig, acme_crm

__all__ = ["Delivered", "Sandbox", "SandboxConfig", "acme_crm", "deliver"]


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the service would answer, and what the handlers made of the event.

    ``status`` and ``message`` are those of the endpoint; ``outcomes`` has the verdict of each handler that was called,
    by the handler's function name. Its ``state`` is ``done``, ``unsupported``, ``retry`` or ``failed``, and ``reason``
    says why.
    """

    status: int
    message: str
    outcomes: Mapping[str, Verdict] = field(default_factory=dict)


async def deliver(
    subscription: Subscription,
    event: Mapping[str, Any],
    *,
    settings: Mapping[str, Any] | None = None,
    install: InstallContext | None = None,
    sinks: bool = False,
) -> Delivered:
    """Send one event to a subscription and call its handlers once, as the service would.

    Sinks that were attached with ``subscription.to(...)`` write where they were told to, which may be a real database.
    So they are left alone, and have no outcome, unless you ask for them.

    Args:
        event: the JSON object that Segment would send.
        settings: the destination's custom settings, as in ``X-Segment-Settings``.
        install: whom the event is from; an account named ``test-account`` when left out.
        sinks: call the sinks, too.
    """
    try:
        parsed = parse_event(
            json.dumps(event).encode(), received_at=datetime.now(UTC), display_name=subscription.display_name
        )
        check_event(parsed)
        values = resolve_settings(subscription.settings, settings or {}).values
    except DeliveryRefused as refused:
        return Delivered(refused.status, refused.message)
    except SettingInvalid as error:
        return Delivered(400, str(error))
    if parsed.type not in subscription.handled_types:
        return Delivered(501, "Events of this type are not supported.")
    sender = install or InstallContext("test-account", subscription.name)
    outcomes: dict[str, Verdict] = {}
    for handler in subscription.handlers_of(parsed):
        if handler.of_sink and not sinks:
            continue
        error_raised: BaseException | None = None
        try:
            if handler.batch is None:
                await handler.call(parsed, sender, values)
            else:
                (error_raised,) = batch_errors(await handler.call_batch([parsed], sender, values), [parsed])
        except Exception as error:
            error_raised = error
        name = handler.key.partition(" (")[0]
        outcomes[name] = judge(handler.key, error_raised)
    return Delivered(202, "Accepted.", outcomes)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("enable_with_segment.segment_sandbox"), name)
