"""The handlers of the service that is killed: one that takes events in batches, and one that fails at first."""

from __future__ import annotations

import asyncio
import os
from functools import cache
from pathlib import Path

from enable_with_segment import Event, Subscription
from tests.crash.effects import Effects

BATCHED = "batched"
STUBBORN = "stubborn"
FORGET = "forget"
HANDLERS = (BATCHED, STUBBORN)
"""Those for events other than deletes."""

crm = Subscription("acme-crm")


@cache
def _effects() -> Effects:
    return Effects(Path(os.environ["EFFECTS_FILE"]))


@crm.on("track", batch=100)
async def batched(events: list[Event]) -> None:
    """Have an effect for each event, and stay a little longer: a process may die between effect and result."""
    _effects().apply(BATCHED, [event.message_id or "" for event in events])
    await asyncio.sleep(0.002)


@crm.on("track")
async def stubborn(event: Event) -> None:
    """Fail at the first call for one message in ten, so that there are always some that wait for another attempt."""
    message_id = event.message_id or ""
    if message_id.endswith("7") and _effects().note_call(STUBBORN, message_id) == 1:
        raise ConnectionError("away")
    _effects().apply(STUBBORN, [message_id])


@crm.on("delete")
async def forget(event: Event) -> None:
    """Have an effect for the deletion."""
    _effects().apply(FORGET, [event.message_id or ""])
