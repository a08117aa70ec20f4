"""Whether a sender has said something that was not read yet."""

from __future__ import annotations

import asyncio
import selectors

_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)
"""One that needs no file descriptor of its own: there may be none left."""


def is_unread(transport: asyncio.BaseTransport) -> bool:
    """Tell whether something lies in the socket of an open connection: bytes, or the end of them.

    A timer of a busy event loop is often late, and what arrived meanwhile is still to be read when it rings.
    """
    with _Selector() as selector:
        selector.register(transport.get_extra_info("socket").fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))
