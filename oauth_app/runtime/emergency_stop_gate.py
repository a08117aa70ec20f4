"""The webhook behind the emergency stop (TK-16)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from enable_with_segment.oauth_app.runtime.emergency_stop import EmergencyStopSwitch
from enable_with_segment.subscriptions.receiving.exchange import WAITING_SINCE, answer, path_below_mount

logger = logging.getLogger(__name__)

_RETRY_LATER = ((b"retry-after", b"30"),)
_LONGEST_READ_SECONDS = 3.5


class EmergencyStopGate:
    """The webhook behind the switch: while the stop is engaged every delivery is answered 503.

    Segment retries those for about four hours (contract 5.7), so a short stop loses nothing.

    Args:
        answered: called with the component and the status of each delivery that is refused here.
    """

    def __init__(self, webhook: ASGIApp, switch: EmergencyStopSwitch, *, answered: Callable[[str, int], None]) -> None:
        self._webhook = webhook
        self._switch = switch
        self._answered = answered

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if self._switch.known() is False:  # mostly: then nothing is awaited
            return self._webhook(scope, receive, send)
        return self._ask_first(scope, receive, send)

    async def _ask_first(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[WAITING_SINCE] = asyncio.get_running_loop().time()
            if await self._is_stopped():
                self._answered(path_below_mount(scope).partition("/")[0], 503)
                await answer(send, 503, "We cannot take events right now. Try again.", extra=_RETRY_LATER)
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
