"""Handlers that do nothing, so that what is measured is ours."""

from __future__ import annotations

from collections.abc import Sequence

from enable_with_segment import Event, Subscription

crm = Subscription("acme-crm", display_name="Acme CRM")


@crm.on("track", batch=500)
async def store(events: Sequence[Event]) -> None:
    """Take a batch."""


@crm.on("delete")
async def forget(event: Event) -> None:
    """Take a deletion."""
