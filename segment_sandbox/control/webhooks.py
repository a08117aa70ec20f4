"""Webhooks destinations under `/_sandbox/webhooks`: adding them to a source, and looking at them."""

from __future__ import annotations

from dataclasses import asdict
from typing import cast

from starlette.requests import Request
from starlette.routing import Route

from enable_with_segment.segment_sandbox.config import ConfigError
from enable_with_segment.segment_sandbox.control.http import Answer, ControlError, body_of, route, text, texts
from enable_with_segment.segment_sandbox.delivery.webhooks import Variant, WebhooksDestination
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.transcript import MASK


class ControlWebhooks:
    """Handlers that do what a customer does in the form of a Webhooks destination."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        return [route("POST", "webhooks", self.add), route("GET", "webhooks", self.all)]

    async def add(self, request: Request) -> Answer:
        """Add or replace one: `{"source", "variant", "urls": [...], "shared_secret"?, "slug"?, ...}`.

        Also `"method"`, `"headers": {...}`, `"batch_size"`, `"fields": [...]` and `"enabled"`.
        """
        body, world = await body_of(request), self._state.world
        source, variant, headers = text(body, "source"), text(body, "variant"), body.get("headers", {})
        if source not in world.sources:
            raise ControlError(f"There is no source {source!r}.", 404)
        if variant not in {"classic", "actions"}:
            raise ControlError("variant is classic or actions.")
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise ControlError("headers is not an object of strings.")
        batch_size = body.get("batch_size", 0)
        if not isinstance(batch_size, int) or isinstance(batch_size, bool):
            raise ControlError("batch_size is not a whole number.")
        try:
            added = WebhooksDestination(
                slug=text(body, "slug", f"webhooks-{variant}"),
                source=source,
                variant=cast(Variant, variant),
                urls=texts(body, "urls"),
                shared_secret=text(body, "shared_secret", ""),
                method=text(body, "method", "POST"),
                headers=headers,
                batch_size=batch_size,
                fields=texts(body, "fields") if "fields" in body else None,
                enabled=body.get("enabled") is not False,
            )
        except ConfigError as error:
            raise ControlError(str(error)) from error
        world.webhooks[added.name] = added
        return _shown(added)

    async def all(self, _: Request) -> Answer:
        """Every Webhooks destination, without secrets."""
        return {"webhooks": [_shown(webhook) for webhook in self._state.world.webhooks.values()]}


def _shown(webhook: WebhooksDestination) -> Answer:
    masked = MASK if webhook.shared_secret else ""
    return {**asdict(webhook), "name": webhook.name, "shared_secret": masked, "headers": sorted(webhook.headers)}
