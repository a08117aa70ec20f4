"""Refusing deliveries under overload before they become requests.

To refuse a delivery as a request, uvicorn makes a scope, a cycle and a task of it, which costs more than taking one in
costs us. So where it is already known that a delivery is too much, its body passes by here and one prepared answer is
written. Uvicorn's parser reads the messages either way, so where one ends and the next begins is never ours to say.

Whatever is not plainly such a delivery takes the normal way, and is answered there.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from subscriptions.receiving.early_refusal import STATUS, EarlyRefusal
from subscriptions.receiving.endpoint import holds_signed_key
from subscriptions.receiving.exchange import Headers

_DELIVERIES = b"/subscriptions/"
_DELIVERY = re.compile(rb"/subscriptions/+([\w.-]*)/*(?:\?[\w.~&=%+-]*)?")
"""Addresses that need no second look; with a key in the path a delivery is signed, and has limits of its own."""


class RefusingProtocol(HttpToolsProtocol):
    """One connection, on which the application's ``early_refusal`` is asked first, where it has one."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._refusal: EarlyRefusal | None = getattr(self.app, "early_refusal", None)
        if config.access_log or self.root_path:  # what is refused here is in no log, and under no other root
            self._refusal = None
        self._component: str | None = None
        """Of the delivery that is being refused; after the last answer of a connection it stays."""
        self._passed_bytes = 0
        self._until = 0.0
        self._is_last = False

    def data_received(self, data: bytes) -> None:
        """Read on; what is still to come of a refused body is waited for with the timer of an idle connection."""
        super().data_received(data)
        if self._component is not None and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_at(self._until, self.timeout_keep_alive_handler)

    def on_headers_complete(self) -> None:
        """Decide which way a message takes."""
        if self._component is not None:  # the last answer was given; what came with it is not for us
            return
        refusal = self._refusal
        if refusal is not None and self.url.startswith(_DELIVERIES):
            if refusal.pressure.tight and self._refuse(refusal):
                return
            refusal.pressure.expect(self.loop.call_soon)
        if self.timeout_keep_alive_task is not None:  # it came in one piece with a refused one
            self._unset_keepalive_if_required()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Let a part of a refused body pass by."""
        if self._component is None or self._refusal is None:
            super().on_body(body)
            return
        self._passed_bytes += len(body)
        if self._passed_bytes > self._refusal.body_bytes:
            self._answer(last=True)

    def on_message_complete(self) -> None:
        """Answer what was refused, now that its sender listens."""
        if self._component is None:
            super().on_message_complete()
        else:
            self._answer(last=self._is_last)

    def shutdown(self) -> None:
        """Do not wait for the rest of a refused body."""
        if self._component is None:
            super().shutdown()
        else:
            self._answer(last=True)

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that is idle, or whose refused body takes too long."""
        if self._component is None:
            super().timeout_keep_alive_handler()
        else:
            self._answer(last=True)

    def _refuse(self, refusal: EarlyRefusal) -> bool:
        """Begin to refuse a delivery, or tell that it is to take the normal way.

        What came before it on the connection must be answered first, and its sender must have read enough of that.
        """
        delivery = _DELIVERY.fullmatch(self.url)
        if delivery is None or self.parser.get_method() != b"POST" or self.parser.should_upgrade():
            return False
        earlier: RequestResponseCycle | None = self.cycle
        if self.flow.write_paused or (earlier is not None and not earlier.response_complete):
            return False
        headers = Headers(self.headers)
        length = headers.get(b"content-length")
        if not refusal.pressure.refuses(length, headers.get(b"content-encoding")):
            return False
        if holds_signed_key(headers.all(b"authorization")):
            return False
        self._component = delivery[1].decode()
        self._passed_bytes = 0
        self._until = self.loop.time() + refusal.body_seconds
        self._is_last = self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive()
        is_too_long = length is not None and length.isdigit() and int(length[:20]) > refusal.body_bytes
        if self.expect_100_continue or is_too_long:  # nobody knows whether the body will be sent after the answer
            self._answer(last=True)
        return True

    def _answer(self, *, last: bool) -> None:
        component, refusal = self._component, self._refusal
        if component is None or refusal is None or self.transport.is_closing():
            return
        self.transport.write(refusal.answer(self.server_state.default_headers, last=last))
        refusal.answered(component, STATUS)
        if last:
            self.transport.close()
        else:
            self._component = None
        self.on_response_complete()
