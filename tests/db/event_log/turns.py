"""Whether others get their turn while something is done in the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_Result = TypeVar("_Result")


async def turns_of_others(work: Awaitable[_Result]) -> tuple[_Result, int]:
    """Return what comes of some work, and how many turns others got while it was done."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    try:
        return await work, turns
    finally:
        beside.cancel()
