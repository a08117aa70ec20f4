"""The webhook behind the emergency stop (TK-16)."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable

from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from enable_with_segment.oauth_app.runtime.emergency_stop import EmergencyStopSwitch
from enable_with_segment.subscriptions.receiving.exchange import WAITING_SINCE

logger = logging.getLogger(__name__)

_RETRY_AFTER_SECONDS = 30
_LONGEST_READ_SECONDS = 3.5


class EmergencyStopGate:
    """The webhook behind the switch: while the stop is engaged every delivery is answered 503.

    Segment tries those again for about four hours (contract 5.7), so a short stop loses nothing.
    """

    def __init__(self, webhook: ASGIApp, switch: EmergencyStopSwitch) -> None:
        self._webhook = webhook
        self._switch = switch

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if self._switch.known() is False:  # mostly, and then nothing has to be waited for
            return self._webhook(scope, receive, send)
        return self._ask_first(scope, receive, send)

    async def _ask_first(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[WAITING_SINCE] = asyncio.get_running_loop().time()
            if await self._is_stopped():
                await _refuse(send)
                return
        await self._webhook(scope, receive, send)

    async def _is_stopped(self) -> bool:
        try:
            async with asyncio.timeout(_LONGEST_READ_SECONDS):
                return await self._switch.engaged()
        except Exception as error:
            bug = None if isinstance(error, SQLAlchemyError | OSError) else error
            logger.warning("answering 503: the emergency stop cannot be read (%s)", type(error).__name__, exc_info=bug)
            return True


async def _refuse(send: Send) -> None:
    body = json.dumps({"message": "We cannot take events right now. Try again."}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"retry-after", str(_RETRY_AFTER_SECONDS).encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
