"""uvicorn HTTP protocol with a fast path: a delivery that arrives in one read is answered without an ASGI request.

Building a request (a scope, a cycle and a task) costs more than checking a delivery. So the webhook is offered a
delivery that arrived in one piece, and load shedding refuses one before it becomes a request. Everything else becomes a
request and takes the normal path. The parser alone decides where a message ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from functools import partial
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from enable_with_segment.subscriptions.receiving.endpoint import holds_signed_key
from enable_with_segment.subscriptions.receiving.exchange import Headers, message_body, message_headers
from enable_with_segment.subscriptions.receiving.fast_path import FastPath
from enable_with_segment.subscriptions.receiving.load_shedding import STATUS, LoadShedding
from enable_with_segment.subscriptions.receiving.prepared_answer import PreparedAnswer
from enable_with_segment.subscriptions.receiving.server.idle_timer import IdleTimer
from enable_with_segment.subscriptions.receiving.server.pending_answers import InFlight, PendingAnswers
from enable_with_segment.subscriptions.receiving.server.request_head import (
    MOST_FIELDS,
    HeadTooLarge,
    RequestHead,
    without_upgrade,
)
from enable_with_segment.subscriptions.receiving.server.unread import is_unread

logger = logging.getLogger(__name__)

_DELIVERIES = b"/subscriptions/"
_DELIVERY = re.compile(rb"/subscriptions/{1,9}([\w.-]{0,200})/{0,9}(?:\?[\w.~&=%+-]{0,2000})?")
"""Addresses that need no second look; with a key in the path a delivery is signed, and has limits of its own.

They are short, so that uvicorn can read them even when a request is made of a delivery outside of its parser.
"""
_RETRY_LATER = ((b"retry-after", b"10"),)
_HEAD_TOO_LARGE = "The request's head is too large."


class DeliveryProtocol(HttpToolsProtocol):
    """Asks the application's ``load_shedding`` and ``fast_path`` first, if it has them."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._refusal: LoadShedding | None = getattr(self.app, "load_shedding", None)
        self._fast_path: FastPath | None = getattr(self.app, "fast_path", None)
        # What is answered here is in no log, under no other root, and not counted by the server.
        if config.access_log or self.root_path or self.limit_concurrency is not None:
            self._refusal = self._fast_path = None
        self._refused: str | None = None
        """The component of the delivery that is being refused; after the last answer of a connection it stays."""
        self._passed_bytes = 0
        self._refused_until = 0.0
        self._is_last = False
        self._ends_next = False
        """Whether the server stops, and this connection once what has arrived on it is read."""
        self._pending: PreparedAnswer | None = None
        """The answer to a refused delivery, until everything that has arrived is read."""
        self._offered: tuple[str, Headers] | None = None
        """Component and headers of the delivery that may take the fast path, while it is being read."""
        self._body = b""
        self._pending_answers = PendingAnswers.of(self.loop)
        self._idle = IdleTimer(self.loop, self.timeout_keep_alive)
        self._head = RequestHead(self.loop)
        self._offers_upgrade = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the idle timer: a connection on which nothing arrives is closed like one at rest."""
        super().connection_made(transport)
        self._idle.rest(self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Read on; what is still to come of a refused body is waited for with the timer of an idle connection."""
        self._idle.wake()
        self._unset_keepalive_if_required()
        if not self._feed(data):
            return
        if self._offered is not None:
            self._make_request()
        elif self._refused is not None and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_at(self._refused_until, self.timeout_keep_alive_handler)
        if self._ends_next:
            self.shutdown()

    def _feed(self, data: bytes) -> bool:
        """Parse a read; returns False if the connection ends instead.

        An offer to upgrade stops the parser behind the head, with the body left over. Then a new parser reads the same
        head without the offer, and goes on with the body: where a message ends is said by its framing alone (WH-17).
        """
        rest: bytes | memoryview = data
        self._head.reading(len(data))
        try:
            while True:
                try:
                    self.parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as offer:
                    rest = memoryview(rest)[offer.args[0] :]
                    self._read_again_without_upgrade()
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, HeadTooLarge):
                self._end(431, _HEAD_TOO_LARGE)
            else:  # a bug of ours, or no memory: never a 4xx, which would lose the event (WH-20)
                self._fail(error.__context__ or error)
            return False
        except httptools.HttpParserError:
            logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
            return False
        except Exception as error:
            self._fail(error)
            return False
        if self._head.is_too_large(len(data), self.url, self.headers, late=self._head_took_too_long):
            self._end(431, _HEAD_TOO_LARGE)
            return False
        return True

    def _read_again_without_upgrade(self) -> None:
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserInvalidMethodError("CONNECT is not supported")
        head = without_upgrade(method, self.url, self.parser.get_http_version(), self.headers)
        self._offers_upgrade = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.parser.feed_data(head)

    def _head_took_too_long(self) -> None:
        self._end(408, "The request's head did not arrive in time.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field, as uvicorn does, up to a number."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > MOST_FIELDS:
            raise HeadTooLarge

    def on_message_begin(self) -> None:
        """Begin to read a message; what a request needs beyond that is made when it becomes one."""
        self._head.begin()
        self.answer_pending()  # answers come in the order of what they answer
        self._idle.wake()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Decide which way a message takes."""
        self._head.complete(self.url, self.headers)
        if self.parser.should_upgrade():
            self._offers_upgrade = True
            return
        if self._refused is not None:  # the last answer was given; what came with it is not for us
            return
        refusal = self._refusal
        if self.url.startswith(_DELIVERIES):
            component = self._plain_delivery()
            if component is not None:
                if refusal is not None and refusal.concurrency_limit.near_limit and self._refuse(refusal, component):
                    return
                if self._fast_path is not None and self._offer(component):
                    return
            self._expect()
        self._begin_request()

    def on_body(self, body: bytes) -> None:
        """Let a part of a refused body pass by; keep one that may take the fast path."""
        if self._offered is not None:
            self._body += body
        elif self._refused is None or self._refusal is None:
            super().on_body(body)
        else:
            self._passed_bytes += len(body)
            if self._passed_bytes > self._refusal.body_bytes:
                self._answer_refused(last=True)

    def on_message_complete(self) -> None:
        """Answer what was refused, now that its sender listens, and hand over what may take the fast path."""
        if self._offers_upgrade:
            return
        if self._offered is not None:
            if not self._hand_over():
                self._make_request()
                super().on_message_complete()
        elif self._refused is None:
            super().on_message_complete()
        else:
            self._answer_refused(last=self._is_last)

    def eof_received(self) -> None:
        """Answer a sender that closed its writing side and may still read."""
        self.answer_pending()
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._idle.stop()
        self._head.end()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End the connection after the next answer, or now if none is due; wait for no rest of a refused body."""
        self.answer_pending()
        if self._refused is not None:
            self._answer_refused(last=True)
        elif self._has_unread():
            self._ends_next = True
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that is idle, or whose refused body takes too long.

        A sender whose next message is there already would never know whether it was read, so that is answered first.
        """
        if self._refused is not None:
            self._answer_refused(last=True)
        elif self._has_unread():
            self._idle.rest(self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """End a connection on which something came that is no HTTP."""
        self._end(400, msg)

    def _fail(self, error: BaseException) -> None:
        """End a connection after a failure of ours during a read.

        Without memory the process ends: it could only refuse, and acknowledged events are on disk.
        """
        if isinstance(error, MemoryError):
            os.write(2, b"out of memory: the process ends\n")
            os._exit(70)
        logger.error("reading a request failed", exc_info=error)
        self._end(503, "We cannot take this right now. Try again.")

    def _end(self, status: int, message: str) -> None:
        """Answer what cannot be read further, and close. A message before it that is complete is answered first."""
        self.answer_pending()
        self._head.end()
        earlier: RequestResponseCycle | None = self.cycle
        if self.transport.is_closing():
            return
        if earlier is not None and not earlier.response_complete and not getattr(earlier, "more_body", False):
            self.flow.pause_reading()
            earlier.keep_alive = False
            return
        if earlier is None or earlier.response_complete or not getattr(earlier, "response_started", False):
            body = message_body(message)
            headers = [*message_headers(body), *_RETRY_LATER] if status == 503 else message_headers(body)
            answer = PreparedAnswer(status, headers, body)
            self.transport.write(answer.on_the_wire(self.server_state.default_headers, last=True))
        self.transport.close()

    def _has_unread(self) -> bool:
        """Tell whether, while no answer is due, the next message is there or has begun to be."""
        earlier: RequestResponseCycle | None = self.cycle
        if self.transport.is_closing() or not (earlier is None or earlier.response_complete):
            return False
        return is_unread(self.transport)

    def _expect(self) -> None:
        if self._refusal is not None:
            self._refusal.concurrency_limit.expect(self.loop.call_soon)

    def _begin_request(self) -> None:
        self._unset_keepalive_if_required()  # it came in one piece with another one
        url, headers, expect_100_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect_100_continue
        self.headers += headers  # that list is in the scope
        super().on_headers_complete()

    def _plain_delivery(self) -> str | None:
        """Return the component of a delivery that may be answered here, ``None`` for one that takes the normal path.

        What came before it on the connection must be answered first, and its sender must have read enough of that.
        """
        delivery = _DELIVERY.fullmatch(self.url)
        if delivery is None or self.parser.get_method() != b"POST":
            return None
        earlier: RequestResponseCycle | None = self.cycle
        if self.flow.write_paused or (earlier is not None and not earlier.response_complete):
            return None
        return delivery[1].decode()

    def _offer(self, component: str) -> bool:
        """Wait for the body of a delivery that may take the fast path, or return False: it takes the normal path."""
        if self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive() or self.expect_100_continue:
            return False
        headers = Headers(self.headers)
        if headers.get(b"content-length") is None:  # nothing else keeps a body in one piece
            return False
        self._offered = component, headers
        self._body = b""
        return True

    def _hand_over(self) -> bool:
        if self._offered is None or self._fast_path is None:
            return False
        taken = InFlight()
        if not self._fast_path.take(*self._offered, self._body, partial(self._answer_taken, taken)):
            return False
        self._offered = None
        self._body = b""
        self.headers = []
        self._unset_keepalive_if_required()  # it came in one piece with another one
        self.cycle = taken  # type: ignore[assignment]  # uvicorn asks no more of it than there is
        return True

    def _make_request(self) -> None:
        """Begin a request with what has been read of a delivery that was to take the fast path."""
        body, self._body, self._offered = self._body, b"", None
        self._expect()
        self._begin_request()
        if body:
            super().on_body(body)

    def _refuse(self, refusal: LoadShedding, component: str) -> bool:
        """Begin to refuse a delivery, or return False if it is not refused here."""
        headers = Headers(self.headers)
        if not refusal.refuses(headers):
            return False
        if holds_signed_key(headers.all(b"authorization")):
            return False
        self._refused = component
        self._passed_bytes = 0
        self._refused_until = self.loop.time() + refusal.body_seconds
        self._is_last = self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive()
        length = headers.get(b"content-length")
        is_too_long = length is not None and length.isdigit() and int(length[:20]) > refusal.body_bytes
        if self.expect_100_continue or is_too_long:  # nobody knows whether the body will be sent after the answer
            self._answer_refused(last=True)
        return True

    def _answer_refused(self, *, last: bool) -> None:
        """Refuse: at once where it is the last answer, otherwise once all that is there has been read."""
        component, refusal = self._refused, self._refusal
        if component is None or refusal is None or self.transport.is_closing():
            return
        refusal.answered(component, STATUS)
        if last:
            self._write_answer(refusal.answer, last=True)
        else:
            self._refused = None
            self._pending = refusal.answer
            self.headers = []  # they hold a key; and thousands that are kept until then would be in each other's way
            self._pending_answers.add(self, self.loop)

    def answer_pending(self) -> None:
        """Write the pending answer, if there is one."""
        if self._pending is not None:
            answer, self._pending = self._pending, None
            self._write_answer(answer, last=False)

    def _answer_taken(self, taken: InFlight, answer: PreparedAnswer) -> None:
        """Answer a delivery that the fast path took."""
        taken.response_complete = True
        self._write_answer(answer, last=not taken.keep_alive)

    def _write_answer(self, answer: PreparedAnswer, *, last: bool) -> None:
        """Write a whole answer, and go on with the connection or close it."""
        if not self.transport.is_closing():
            self.transport.write(answer.on_the_wire(self.server_state.default_headers, last=last))
            if last:
                self.transport.close()
        if self.pipeline:
            self.on_response_complete()
        else:
            self._wait_for_next()

    def _wait_for_next(self) -> None:
        """Wait for the next message: what uvicorn does after an answer, with a timer that need not be set anew."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._idle.rest(self.timeout_keep_alive_handler)
